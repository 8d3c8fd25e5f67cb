"""Record what the compact models tell of the sample images: ``python -m tests.record``, after they were made anew."""
from __future__ import annotations

import json
from pathlib import Path

from storyteller import generate

ROOT = Path(__file__).parent.parent


def main() -> None:
    z = generate.load_all({})
    found = {}
    for image in sorted((ROOT / "images").glob("*.jpg")):
        told = generate.story(z, image, show=False)
        tale = generate.story(z, image, show=False, style="tale")
        found[image.name] = {"captions": [caption.text for caption in told.captions[:5]], "story": str(told),
                             "tale": str(tale)}
    (ROOT / "tests" / "compact_stories.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
