"use strict";
// The page: a photo goes to the server as the body of POST /story, and the JSON that comes back is shown.

const SHOWN_CAPTIONS = 8;
const SHOWN_CANDIDATES = 3;
// Words of captions that name nothing.
const FUNCTION_WORDS = new Set(("the and with near from under beside over behind there its her his their into past like " +
  "close view two some for has have are was that this out off onto around while next front one day each other").split(" "));

const $ = (id) => document.getElementById(id);
const fixed = (score) => (+score.toFixed(2)).toFixed(2).replace("-", "\u2212");      // without -0.00
const SILENT = "The server does not answer. Is storyteller serve still running?";
const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

let server = { max_upload: Infinity };
let photo = null;       // a Blob
let seed = null;        // of the story shown; null: the one that is always told first
let story = null;       // the answer that is shown
let request = null;     // the AbortController of the request under way
let sample = null;      // the button of the sample that is on its way

function show(blob) {
  photo = blob;
  seed = sample = null;
  URL.revokeObjectURL($("photo").src);
  $("photo").src = URL.createObjectURL(blob);
  $("photo").alt = blob.name ? `Your photo, ${blob.name}` : "Your photo";
  $("photo").hidden = false;
  $("hint").textContent = "";
  tell();
}

// A photo that the browser cannot show (HEIC) may still be one that the server reads.
$("photo").addEventListener("error", () => {
  $("photo").hidden = true;
  $("hint").textContent = "The browser cannot show this file.";
});

async function tell() {
  if (!photo) return;
  if (request) request.abort();
  const mine = request = new AbortController();
  const options = new URLSearchParams({ strength: $("strength").value, lyric: $("lyric").checked,
    n_best: SHOWN_CANDIDATES });
  if ($("style").value) options.set("style", $("style").value);
  if (seed !== null) {
    // Where the likeliest story is told, another one must be drawn.
    const drawn = server && !server.candidates ? { sample: true, temperature: 0.7, top_p: 0.95 } : {};
    for (const [name, value] of Object.entries({ seed, ...drawn })) options.set(name, value);
  }
  $("error").textContent = "";
  document.body.classList.add("busy");
  $("status").textContent = "Telling the story\u2026";
  const asking = setInterval(ask, 1000);
  let problem = "";
  try {
    if (photo.size > server.max_upload)
      problem = `The photo has more than ${+(server.max_upload / 2 ** 20).toFixed(2)} MB: make it smaller first.`;
    else {
      const body = await photo.arrayBuffer();
      const answer = await fetch(`story?${options}`, { method: "POST", body, signal: mine.signal });
      const told = await answer.json();
      if (answer.ok) render(story = told);
      else problem = sentence(told.error);
    }
  } catch (error) {
    // A file that was changed since it was chosen is not read.
    problem = error.name === "NotReadableError" ? "The file cannot be read any more: choose it again." : SILENT;
  } finally {
    clearInterval(asking);
  }
  if (mine !== request) return;
  request = null;
  document.body.classList.remove("busy");
  $("status").textContent = "";
  if (problem) {
    $("error").textContent = problem;
    $("told").hidden = true;
  }
  if ($("telling").getBoundingClientRect().top > 0.7 * innerHeight) $("telling").scrollIntoView();    // on a phone
  ask();
}

function sentence(text) {
  text = text[0].toUpperCase() + text.slice(1);
  return /[.!?)]$/.test(text) ? text : text + ".";
}

function render(told) {
  const seen = wordsSeen(told.captions);
  $("story").replaceChildren(...marked(told.text, seen));
  $("warning").textContent = told.warnings.length ? sentence(told.warnings.join("; ")) : "";
  const most = Math.max(...told.captions.map((caption) => caption.score), 1e-6);
  $("captions").replaceChildren(...told.captions.slice(0, SHOWN_CAPTIONS).map((caption) => {
    const bar = element("div", "", "bar");
    bar.style.width = `${Math.max(0, 100 * caption.score / most)}%`;
    return element("li", [bar, element("span", caption.text), element("span", caption.score.toFixed(3), "score")]);
  }));
  $("candidates").replaceChildren(...told.alternatives.map((other, i) => {
    const words = other.passage.split(" ").length + 1;      // with the end of the passage
    const cells = [["Fits the picture", other.similarity === null ? "\u2013" : fixed(other.similarity)],
      ["Reads fluently", fixed(-other.cost / words)]];
    return element("tr", [...cells.map(([label, value]) => {
      const cell = element("td", value);
      cell.dataset.label = label;
      return cell;
    }), element("td", marked(other.text, seen))], i === 0 ? "told" : "");
  }));
  $("candidates-note").textContent = "The first was told. The scores: how near a story is to the picture in the joint " +
    "space of pictures and sentences (more is nearer), and the mean log-probability of its words (0 is the most).";
  const seconds = Object.values(told.timings).reduce((sum, one) => sum + one, 0);
  $("details").textContent = `Style ${told.style}${seed === null ? "" : `, seed ${seed}`}, told in ` +
    `${seconds.toFixed(1)} s.`;
  $("told").hidden = false;
}

function element(tag, content, name = "") {
  const made = document.createElement(tag);
  made.append(...(Array.isArray(content) ? content : [content]));
  made.className = name;
  return made;
}

// The words that at least a tenth of the captions share.
function wordsSeen(captions) {
  const counts = new Map();
  for (const caption of captions)
    for (const word of new Set(caption.text.toLowerCase().match(/[\p{L}]{3,}/gu) || []))
      if (!FUNCTION_WORDS.has(word)) counts.set(stem(word), (counts.get(stem(word)) || 0) + 1);
  return new Set([...counts.keys()].filter((word) => counts.get(word) >= captions.length / 10));
}

const stem = (word) => word.toLowerCase().replace(/'s$/, "").replace(/(?<=[^s].)s$/, "");

function marked(text, seen) {
  return text.split(/(\p{L}[\p{L}']*)/u).map((piece) => seen.has(stem(piece)) ? element("mark", piece) : piece);
}

async function ask() {
  try {
    server = await (await fetch("status")).json();
  } catch {
    $("queue").textContent = "The server does not answer.";
    return;
  }
  if (!$("style").options.length) {
    for (const name of server.styles) $("style").add(new Option(name, name, false, name === server.style));
    if (!server.style) $("style").add(new Option("as set", "", true, true), 0);
    linesOfStyle();
  }
  $("queue").textContent = `Queue: ${plural(server.waiting, "photo")} waiting, ${server.working} of ` +
    `${plural(server.workers, "worker")} busy.`;
  if (request) $("status").textContent = server.waiting ? `Telling the story\u2026 ${plural(server.waiting, "photo")} ` +
    "waiting in the queue." : "Telling the story\u2026";
}

// Where a photo comes from.
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  if (!$("file").files.length) return;
  show($("file").files[0]);
  $("file").value = "";     // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => take(event.clipboardData, event));
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => { $("drop").classList.remove("over"); take(event.dataTransfer, event); });
function take(data, event) {
  event.preventDefault();
  if (data.files.length) show(data.files[0]);
  else $("error").textContent = "There is no photo in that: save it as a file first and choose it here.";
}
for (const button of document.querySelectorAll("#samples button"))
  button.addEventListener("click", async () => {
    sample = button;
    try {
      const blob = await (await fetch(button.dataset.name)).blob();
      if (sample === button) show(blob);      // and nothing else was chosen meanwhile
    } catch {
      $("error").textContent = SILENT;
    }
  });

// What is done with it.
const linesOfStyle = () => { $("lyric").checked = $("style").value === "verse"; };
$("style").addEventListener("change", linesOfStyle);
for (const id of ["style", "strength", "lyric"]) $(id).addEventListener("change", tell);
$("strength").addEventListener("input", () => { $("strength-shown").textContent = $("strength").value; });
$("another").addEventListener("click", () => { seed = (seed || 0) + 1; tell(); });
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(story.text);
    $("status").textContent = "Copied.";
  } catch {       // the browser allows it on this machine and over HTTPS only
    getSelection().selectAllChildren($("story"));
    $("status").textContent = "The story is selected: copy it with Ctrl+C.";
  }
});
$("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([story.text + "\n"], { type: "text/plain" }));
  link.download = "story.txt";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

ask();
setInterval(() => { if (!document.hidden && !request) ask(); }, 5000);
