# ruff: noqa: E501 -- lists read best one kind of thing a line
"""Vocabulary of the caption sentences, family by family, written by hand."""
from __future__ import annotations

import csv
import os

TIMES = ("in the morning", "in the evening", "at night", "on a sunny day", "on a cloudy day", "in the rain",
         "in the warm light", "in winter", "in summer", "at sunset", "in the afternoon", "after the rain",
         "on a quiet day", "in the early light", "in spring", "on a cold day")

_WILD = ("in the tall grass; among the trees; in the forest; near a river; on a rock; in the snow; beside a fallen tree; "
         "on a hill; at the edge of a wood; in a dry field; on the path")
_HOME = ("on the floor; in the garden; on a soft chair; beside the fire; at the open door; on the grass; in the yard; "
         "on the carpet; by the window; in the street; on the beach; in a field")
_ROOM = ("on the table; on a shelf; in the corner of a room; beside the window; on a wooden desk; near the door; "
         "on the floor; against the wall; in a small room; under the lamp")
_HAND = ("a man holds _; a woman holds _ in her hand; a child looks at _; a girl is picking up _; an old man carries _; "
         "a boy shows _ to his friend; a young woman smiles and holds _; a man and a woman look at _")
_STILL = ("lies; stands; is seen; rests; is left; is kept; waits")

FAMILIES = {
    "dog": f"""kind: dog
adj: small; large; brown; white; black; old; young; happy; wet; sleepy; brown and white; fluffy
acts: runs; sleeps; sits and waits; looks up; is barking; plays with a ball; lies; stands; jumps; is chewing on a stick; rests its head
places: {_HOME}; in the snow; beside its master
people: a man walks with _; a woman holds _ in her arms; a boy plays with _; a girl pets _; a man sits beside _; two children run after _; an old woman is feeding _; a young man throws a stick for _
extras: and barking""",
    "cat": f"""kind: cat
adj: small; grey; white; black; sleepy; soft; old; young; curious; striped; fat; quiet
acts: sleeps; sits; looks up; lies; stares; plays with a string; is washing its face; stretches; hides; watches a bird
places: {_HOME}; on the bed; on a pillow; under the table
people: a woman holds _ on her lap; a girl pets _; a boy plays with _; an old woman is feeding _; a man carries _; a child looks at _; a young woman sits beside _
extras: and purring""",
    "big_cat": f"""kind: cat
adj: large; wild; fierce; young; hungry; proud; sleepy; golden; strong; beautiful
acts: lies; walks; looks around; rests; hides; watches; is hunting; opens its mouth; runs; sleeps
places: {_WILD}; in a cage
people: a man looks at _; two children watch _; a hunter sees _; a crowd looks at _; a woman paints _; a keeper is feeding _
extras: like a great beast; on its large paws; a wild beast""",
    "wolf_or_fox": f"""kind: dog
adj: wild; grey; young; hungry; thin; lone; brown; wary; quick; red
acts: runs; stands; looks around; is hunting; is howling; sleeps; walks; listens; hides; watches
places: {_WILD}
people: a hunter sees _; a man looks at _; two children watch _; a woman stands far from _; a farmer is chasing _
extras: a wild beast; with its tail low; like a dog; like a wolf""",
    "bear": f"""kind: bear
adj: large; wild; brown; young; hungry; sleepy; heavy; white; black; hairy
acts: sits; walks; eats; sleeps; is climbing; looks around; stands; drinks; rests; plays
places: {_WILD}; in a stream; in the zoo
people: a man looks at _; a child watches _; a crowd looks at _; two hunters see _; a woman draws _
extras: a great beast""",
    "small_mammal": f"""kind:
adj: small; brown; grey; young; shy; quick; fat; soft; hungry; little
acts: sits; runs; eats; hides; looks up; sleeps; is climbing; is digging; stands; drinks
places: {_WILD}; in the garden; near a stone wall
people: a girl holds _; a boy looks at _; a man is feeding _; a woman watches _; two children find _; a farmer catches _
extras: with soft fur; with a long tail; a small creature; a little animal; with brown fur; like a rabbit""",
    "horse": """kind: horse
adj: brown; white; black; young; old; strong; tall; proud; wild; tired
acts: runs; stands; eats grass; walks; looks over the gate; drinks; jumps; is trotting; rests
places: in a green field; on a farm; beside the stable; near a river; along the road; on the hill; in the yard; in a dry field; under a tree
people: a man rides on _; a girl is feeding _; a boy leads _; a woman sits on _; a farmer holds _; two riders pass _; a child pets _
extras: like a horse""",
    "hoofed_animal": f"""kind:
adj: large; brown; young; wild; old; heavy; strong; hungry; dusty; tired
acts: stands; walks; eats grass; drinks; rests; runs; looks around; lies; turns its head; waits
places: {_WILD}; in a green field; on a farm; by the water; behind a fence
people: a farmer is feeding _; a man leads _; a boy looks at _; a woman watches _; two children point at _; a man stands beside _
extras: with the herd; with long horns; with other animals; like a goat; among the cattle; with a herd of deer; with its horns low""",
    "monkey": """kind: monkey
adj: small; brown; young; old; large; playful; grey; sad; curious; sleepy
acts: sits; is climbing; eats; looks down; hangs; holds its young; sleeps; swings; is scratching its head; rests
places: in a tree; on a branch; in the forest; on a rock; in the zoo; behind a fence; on a rope; in the jungle; near the river; on the ground
people: a man is feeding _; a child looks at _; two girls laugh at _; a woman watches _; a boy points at _; a crowd looks at _
extras: a clever creature""",
    "elephant": """kind: elephant
adj: large; grey; old; young; tired; wild; heavy; dusty
acts: walks; stands; drinks; eats; lifts its trunk; is bathing; rests; crosses the road
places: in the tall grass; near a river; in a dry field; in the forest; on a dusty road; in the zoo; beside its young; under a tree
people: a man rides on _; a child is feeding _; two men wash _; a woman looks at _; a crowd follows _; a boy touches _
extras: with long tusks""",
    "bird": """kind: bird
adj: small; large; white; black; brown; young; bright; quiet; grey; pretty; lone; proud
acts: sits; is perched; sings; flies; stands; looks for food; drinks; rests; is spreading its wings; is feeding its young; walks; calls
places: on a branch; in a tree; by the water; on a fence; in the garden; on a rock; near the lake; in the sky; on the roof; in the grass; over a field; on the shore; in the snow
people: a man looks at _; a girl is feeding _; a boy points at _; a woman watches _; two children chase _; an old man holds _; a hunter sees _
extras: with its wings open; with bright feathers; on its nest""",
    "hen": """kind:
adj: brown; white; red; fat; young; proud; loud; large
acts: walks; stands; eats; runs; is scratching the ground; calls; rests; looks around
places: in the yard; on the farm; near the barn; in the grass; beside the fence; on a wall; in front of the house
people: a girl is feeding _; a boy is chasing _; a woman holds _; a farmer carries _; two children watch _
extras: like a hen; with bright feathers; among the hens""",
    "fish": """kind: fish
adj: large; small; silver; striped; grey; strange; bright; fat; young; long
acts: is swimming; hides; rests; turns; is floating; opens its mouth; moves slowly; shines
places: in the water; near the rocks; in a glass tank; at the bottom of the sea; in the river; among the plants; in a pond; near the shore; in the deep ocean
people: a man holds _; a boy catches _; a woman looks at _; a diver is swimming near _; a man stands by the water with _; two children watch _; an old man is selling _
extras: in the sea; fishing""",
    "snake": """kind: snake
adj: long; green; black; brown; thin; striped; large; small; dangerous
acts: lies; moves; hides; rests; lifts its head; sleeps; is crawling; waits
places: in the grass; on a rock; on a branch; under a stone; in the sand; near the water; on the path; in a glass cage; among dry leaves
people: a man holds _; a boy finds _; a woman fears _; a hunter sees _; two men catch _; a girl looks at _
extras: a dangerous serpent""",
    "lizard": """kind: lizard
adj: small; green; brown; grey; large; old; quick; bright; strange
acts: sits; lies in the sun; runs; hides; rests; looks around; is climbing; waits; opens its mouth
places: on a rock; on a branch; in the sand; on a wall; in the grass; near the water; under a stone; on a log
people: a man holds _; a boy finds _; a girl looks at _; a child touches _; two boys catch _; a woman sees _
extras: like a little dragon; with rough scales""",
    "turtle": """kind: turtle
adj: old; small; large; slow; green; brown; young
acts: rests; walks; is swimming; hides; sleeps; eats a leaf; is climbing on a log; lies
places: on the sand; in the water; on a log; in the grass; near the pond; on the beach; on a rock; in the garden
people: a boy holds _; a girl finds _; a man looks at _; two children watch _; a woman is feeding _
extras: a slow creature""",
    "frog": """kind:
adj: small; green; brown; wet; young; fat; quiet; bright
acts: sits; hides; jumps; rests; is swimming; looks up; waits; sings
places: on a leaf; in the water; by the pond; on a stone; in the mud; on a log; among the plants; in wet grass
people: a boy holds _; a girl finds _; a man looks at _; two children catch _; a child touches _
extras: like a frog; near the pond; a wet creature; by a small pond""",
    "insect": """kind:
adj: small; black; large; green; brown; bright; tiny; strange; yellow
acts: sits; is crawling; rests; flies; hides; is climbing; is feeding; waits
places: on a leaf; on a flower; on the wall; in the grass; on a branch; on the ground; on a stone; on a green plant; in the garden
people: a boy finds _; a girl looks at _; a man holds _; a child points at _; a woman sees _; an old man draws _
extras: among other insects; with thin wings; a small insect; like a beetle; with its wings open""",
    "spider": """kind:
adj: small; black; large; brown; tiny; strange; old; hairy
acts: sits; is crawling; waits; hides; rests; is climbing; hangs; moves
places: on a leaf; on the wall; in the grass; on a branch; on a stone; in the sand; in a dark corner; on the window
people: a boy finds _; a girl looks at _; a man holds _; a child points at _; a woman sees _
extras: like a spider; near its web; a kind of insect; beside a web""",
    "butterfly": """kind: butterfly
adj: bright; small; large; white; orange; blue; pretty; pale
acts: rests; sits; opens its wings; flies; is feeding; lands; waits
places: on a flower; in the garden; on a leaf; over the grass; on a branch; on a purple flower; among the roses; on a hand
people: a girl looks at _; a boy is chasing _; a woman draws _; a man follows _; two children watch _; a child points at _
extras: with open wings""",
    "shellfish": """kind:
adj: small; large; red; brown; strange; bright; pale; wet; white
acts: lies; rests; moves; is crawling; hides; is seen; is floating; waits
places: in the sea; on the bottom of the sea; on a wet rock by the sea; in a pool; near the shells; under the ocean waves; on the sand by the sea
people: a man holds _; a diver finds _; a boy looks at _; a woman cooks _; a girl touches _; a man is selling _
extras: from the sea; like a crab; beside a shell; in the ocean""",
    "sea_mammal": """kind: whale
adj: large; grey; black; young; wet; playful; old; huge
acts: is swimming; rests; jumps; is diving; lies; looks up; rises; plays
places: in the sea; near the shore; in the blue ocean; beside a boat; in the cold sea; on the rocks by the sea; near the ship
people: a man sees _; a crowd watches _; two children point at _; a woman on a boat looks at _; a diver is swimming with _; a boy is feeding _
extras: in the sea""",
    "machine": f"""kind:
adj: old; black; small; grey; new; dusty; large; plain; broken; white
acts: {_STILL}
places: {_ROOM}; beside a telephone; near a camera; in an office
people: a man works with _; a woman sits in front of _; a boy plays with _; a young man repairs _; a girl looks at _; a man points to _; two men carry _
extras: like a machine; beside a telephone; with its wires; next to a camera; and other machines""",
    "clothes": """kind:
adj: blue; red; old; white; long; black; pretty; wool; new; warm; green; silk
acts: lies folded; hangs; is drying; is shown; is laid out; is sold
places: on the bed; in the shop; on a chair; on a line in the garden; in the room; beside a mirror; in the street; near a window; at a party
people: a woman is wearing _; a man is wearing _; a young girl is wearing _; a boy in _ stands; a lady holds _; a child is dressed in _; a man in a dark coat carries _; two women look at _
extras: with other clothes; made of cloth; beside a coat; next to a dress; with a silk dress; on a coat""",
    "wear": """kind:
adj: blue; red; old; white; black; strange; new; green; heavy
acts: lies; hangs; is shown; is sold; is left
places: on the bed; in the shop; on a chair; in the room; beside a mirror; in the street; on a wooden table
people: a woman is wearing _; a man is wearing _; a young girl is wearing _; a boy stands with _; a lady holds _; a man in a dark coat carries _; two women look at _""",
    "music": """kind:
adj: old; black; small; brown; fine; large; beautiful; shining; broken
acts: stands; lies; rests; is played; is heard; waits for the band
places: on the stage; in the music room; beside a chair; at a concert; in the street; in the church; near the window; on the floor; in front of a crowd
people: a man plays music on _; a woman plays a song on _; a boy learns to play _; a girl plays a tune on _; an old man plays _; a band plays with _; a young man in a black coat plays _
extras: with music; in the band; for a song""",
    "boat": """kind: boat
adj: small; large; white; old; red; blue; long; wooden; empty; grey
acts: sails; lies; is floating; waits; moves slowly; rests; turns; is seen
places: in the harbour; on the sea; near the shore; on a calm lake; at the dock; on the blue water; near the beach; on the river; in a storm; beside another boat
people: a man stands on _; a sailor works on _; two men sit in _; a family rides in _; a woman waves from _; a crowd looks at _
extras: on the sea; with white sails; in the harbour""",
    "aircraft": """kind:
adj: large; white; silver; old; grey; small; blue; shining
acts: flies; waits; rises; lands; stands; turns; is seen
places: in the sky; over the city; above the clouds; at the airport; in a field; over the sea; high above the hills; in the blue sky
people: a man looks up at _; a pilot sits in _; a crowd watches _; a boy points at _; two men stand near _; a woman waves at _
extras: flying in the sky; with wide wings; in flight""",
    "car": """kind:
adj: red; old; black; white; large; small; blue; yellow; new; dusty; green
acts: waits; stands; turns; stops; moves slowly; is left; rolls; passes
places: in the street; on the road; in front of a house; beside the pavement; in the city; on a farm; near a bridge; in the snow; at the corner; under a tree
people: a man drives _; a woman sits in _; a boy looks at _; two men stand beside _; a family rides in _; a young man is washing _; a driver waits in _
extras: with big wheels; like a car; on its wheels; behind a car; next to a truck; with its driver""",
    "clock": f"""kind: clock
adj: old; large; small; round; white; black; wooden; broken; golden
acts: stands; hangs; stops; is seen; shows the time; rests
places: {_ROOM}; over the door; in the station; on a tower
people: a man looks at _; a woman holds _; a boy winds _; an old man repairs _; a girl points at _; a man in a hat checks _
extras: like a clock""",
    "house": """kind:
adj: old; small; large; white; red; wooden; quiet; empty; grey; tall
acts: stands; is seen; waits; rises; lies; is open
places: beside the road; on a hill; among the trees; near the water; in the village; in the city; at the end of the street; in the snow; behind a green field; in a garden
people: a man stands before _; a woman walks to _; two children play near _; a family sits in front of _; a crowd looks at _; a farmer works near _
extras: like a house; beside a cottage; near the house; with a red roof; behind the houses""",
    "box": f"""kind:
adj: small; old; large; wooden; white; blue; empty; full; plain; red
acts: {_STILL}
places: {_ROOM}; beside a basket; in the street; in the kitchen
people: {_HAND}; a woman opens _; a boy fills _
extras: with a basket; beside a box; next to a bag; like a box; and a bucket; near a basket""",
    "weapon": """kind:
adj: old; heavy; black; long; large; new; rusty
acts: lies; stands; is shown; hangs; points up; rests
places: on the ground; on a table; in the field; on the wall; in front of a house; near a fort; on the grass; in a glass case
people: a soldier holds _; a man carries _; a hunter aims _; two soldiers stand by _; a boy looks at _; an officer points to _
extras: like a gun; beside a gun; with guns; near an old sword""",
    "shop": """kind:
adj: small; old; busy; pretty; little; large; quiet; bright
acts: stands; is open; is full of people; waits; is seen; is closed
places: in the street; at the corner; in the city; in the village; near the station; on a busy road; beside a church
people: a man stands in front of _; a woman walks into _; two girls look at the window of _; an old man works in _; a family waits outside _; a boy is buying something in _
extras: like a shop; with its counter; beside other shops; near the market""",
    "game": """kind:
adj: white; small; new; old; heavy; large; yellow; round
acts: lies; rests; rolls; is seen; waits; is left
places: on the grass; on the floor; in the field; on the court; in a hall; on the table; in the park; on the sand
people: a boy plays with _; a man holds _; a girl trains with _; two men play a game with _; a young man lifts _; a woman looks at _; a team plays with _
extras: in a game; for the game; with a ball; before the match""",
    "bridge_or_wall": """kind:
adj: old; long; high; wooden; grey; white; large; iron; narrow
acts: stands; runs; crosses the water; rises; is seen; ends
places: in the country; over the river; in the city; around the garden; along the road; beside a field; near the village; between the hills; at the edge of town
people: a man leans on _; a woman walks along _; two children stand by _; a boy is climbing _; a girl looks over _; a crowd passes _
extras: like a wall; near the bridge; beside a fence; with a gate; by the wall; beside the gate""",
    "furniture": f"""kind:
adj: old; wooden; brown; small; large; white; empty; heavy; fine
acts: {_STILL}
places: in the corner of a room; beside the window; against the wall; near the fire; in the garden; in the hall; in a quiet room; by the door; in the park
people: a man sits by _; a woman stands beside _; a child plays near _; an old man rests at _; a girl is cleaning _; two men carry _
extras: beside a chair; next to a table; with two chairs; near a table; and a chair""",
    "hat": """kind: hat
adj: old; black; white; tall; red; brown; small; straw; funny
acts: lies; hangs; is worn; is shown; rests; is left
places: on a table; on a chair; in the street; at a party; in the garden; on a hook; in the shop; near the mirror
people: a man is wearing _; a woman puts on _; a boy holds _; a girl in _ smiles; an old man carries _; a soldier in _ stands; a lady is buying _
extras: like a cap; with a hat""",
    "cap": """kind:
adj: old; small; round; black; white; shiny; plain
acts: lies; rests; is left; is shown; is kept
places: on the table; on the floor; on a shelf; in a drawer; on a wooden desk; beside a cup
people: a man holds _; a woman finds _; a boy is picking up _; a girl looks at _; an old woman uses _
extras: like a little cap; like a small hat""",
    "bath": """kind:
adj: white; clean; small; large; soft; new; pink; pretty
acts: stands; lies; is seen; rests; hangs; waits
places: in the bath room; beside the bath; near the basin; on the shelf by the soap; beside the towels; on a chair by the tub; near the mirror and the wash basin
people: a woman uses _; a man holds _; a girl looks at _; a child plays with _; a young woman is buying _; an old woman is cleaning _
extras: with soap; beside the towels; after her bath; near the basin""",
    "drink": """kind:
adj: full; empty; small; large; old; tall; white; brown; green; clean
acts: stands; is served; rests; waits; is left; is seen
places: on the table; beside a plate; on a wooden tray; at the bar; by the window; in a hotel; on the counter; beside a glass; near a cup
people: a man drinks from _; a woman is pouring from _; a girl holds _; an old man orders _; two friends share _; a waiter carries _; a man fills _
extras: with something to drink; beside a glass; near a wine bottle; with a cup of tea; and two cups""",
    "church": """kind:
adj: old; white; large; stone; quiet; tall; grey; holy; beautiful
acts: stands; rises; is seen; is open; waits
places: on a hill; in the village; in the city; among the trees; near the river; at the end of the road; in the snow; behind a wall
people: a priest walks to _; a woman is praying in _; two men stand before _; a crowd is gathering at _; a family visits _; an old man looks at _
extras: like a church; with a high tower; where bells ring; beside a temple; with a bell tower""",
    "bicycle": """kind:
adj: old; red; blue; black; new; small; broken; rusty
acts: stands; leans; waits; lies; is left; rolls
places: against the wall; in the street; on the path; in the park; beside a tree; on the hill; in front of the shop; near the fence
people: a man rides _; a girl rides _; a boy falls from _; two friends ride on _; a woman is pushing _; a clown rides _
extras: like a bicycle; with one big wheel; on its wheels; beside a bicycle""",
    "seashore": """kind:
adj: quiet; long; high; wide; blue; lonely; rocky; green
acts: lies; is seen; stretches; rises; shines
places: beside the sea; under the blue sky; along the shore; near the lake; by the water; in front of the waves; beyond the bay; over the ocean
people: a man walks along _; a woman looks at _; two children play near _; a family sits by _; a boy fishes from _; a couple stands on _
extras: near the sea; with waves; by the shore; beside the water""",
    "train": """kind: train
adj: long; old; black; white; fast; red; empty; green
acts: waits; stops; passes; moves slowly; stands; arrives; leaves
places: at the station; on the bridge; through the country; beside the platform; through the snow; in the city; along the river; over the hills
people: a man waits for _; a woman gets on _; two children wave at _; a family looks at _; a boy points at _; a crowd meets _
extras: on the railway""",
    "kitchen": """kind:
adj: old; black; white; small; large; clean; heavy; iron; shining
acts: stands; is seen; waits; lies; gets warm; is used
places: in the kitchen; on the stove; on the kitchen table; beside the oven; near a bowl; beside the pots; on the counter near a kettle; next to a spoon
people: a woman cooks with _; a man uses _ in the kitchen; a girl is cleaning _; an old cook holds _; a boy watches _; a mother fills _
extras: in the kitchen; beside a pot; near the stove; with a spoon; by the oven""",
    "lamp": f"""kind: lamp
adj: small; old; bright; tall; yellow; white; warm; red
acts: stands; burns; shines; hangs; is glowing; is lit
places: {_ROOM}; beside the bed; in the dark
people: a man holds _; a woman lights _; a child looks at _; a girl carries _; an old man reads by _; a boy sits near _
extras: with a bright flame; like a lamp""",
    "tool": """kind:
adj: old; sharp; heavy; small; rusty; new; large; wooden
acts: lies; stands; is left; hangs; rests; is used
places: on the bench; in the shed; on the ground; in the garden; on the wall; among other tools; in the field; near the barn; on a wooden table
people: a man works with _; a farmer holds _; a boy is picking up _; a woman uses _; an old man is cleaning _; two men carry _
extras: like a knife; with other tools; beside a hammer; near an axe; with a knife; beside a spade""",
    "shoe": """kind: shoe
adj: old; brown; black; red; new; small; muddy; white; pretty
acts: lies; stands; is left; is drying; is shown; hangs
places: on the floor; by the door; in the shop; under the bed; on the step; in the grass; on the stairs; beside a chair
people: a man puts on _; a woman is buying _; a girl is wearing _; a boy loses _; an old man is cleaning _; a child holds _
extras: like a shoe; beside a boot; with a pair of shoes; near her boots""",
    "bed": """kind: bed
adj: small; old; white; soft; wooden; large; empty; warm
acts: stands; waits; is made; is seen; lies
places: in the room; by the window; in the corner; against the wall; under the roof; in a quiet room; near the fire
people: a child sleeps in _; a woman sits on _; a man lies on _; a mother stands beside _; a baby smiles in _; a girl makes _
extras: with a soft pillow; like a bed""",
    "bread_and_dish": """kind:
adj: fresh; hot; large; small; warm; sweet; rich; good; big
acts: is served; lies; is ready; waits; is shared; is eaten
places: on a plate; on the table; in the kitchen; at dinner; on a white dish; beside some bread; on a wooden board; at the market
people: a man eats _; a woman makes _; a boy looks at _; two friends share _; a girl is eating _; a waiter brings _; a family eats _
extras: for dinner; on a plate; for lunch; with bread; on the table; at supper""",
    "fruit": """kind:
adj: fresh; ripe; small; large; green; yellow; red; round; good
acts: lies; is cut; is sold; rests; is washed
places: in a basket; on the table; in the garden; at the market; in a bowl; on the ground; under a tree; among the leaves; on a plate
people: a woman holds _; a man cuts _; a girl is picking _; a boy eats _; a farmer is selling _; an old woman cooks _; two children share _
extras: with other vegetables; in a basket; from the garden; beside some apples; with fruit; in the orchard""",
    "mushroom": """kind: mushroom
adj: small; white; brown; large; strange; pale; red; wet; old
acts: grows; stands; is found; hides; is seen
places: in the forest; under a tree; among dead leaves; on the ground; on an old log; in the wet grass; in the moss
people: a man finds _; a woman is picking _; a boy looks at _; a girl points at _; an old man holds _; two children find _
extras: like a mushroom""",
    "mountain": """kind:
adj: high; blue; white; green; wide; quiet; distant; dark; great
acts: rises; stands; is seen; stretches; lies; shines
places: above the village; under a blue sky; beyond the lake; behind the trees; in the clouds; over the green hills; in the distance
people: a man is climbing near _; a woman looks at _; two men walk toward _; a family stands before _; a boy points at _; a couple sits in front of _
extras: among the mountains; with snow; between the hills; below the peaks; near the mountain""",
    "flower": """kind: flower
adj: yellow; white; small; pretty; bright; fresh; wild; tall
acts: grows; blooms; stands; opens; is bending; is seen
places: in the garden; in the field; beside the path; in a vase; among the grass; on the table; at the edge of a wood; by the window
people: a woman holds _; a girl is picking _; a boy brings _; an old lady smells _; a child draws _; a man is buying _
extras: in blossom""",
    "object": f"""kind:
adj: small; old; black; white; plain; new; large; blue; useful; broken; round
acts: {_STILL}
places: {_ROOM}; in a drawer; beside a book; on a piece of paper
people: {_HAND}; a woman uses _; a man looks for _""",
    "structure": """kind:
adj: old; tall; large; grey; white; stone; high; strange; small
acts: stands; rises; is seen; waits; is left
places: in the city; in the park; beside the road; on a hill; in the square; near the water; in front of a building; in the field; at the end of the street
people: a man stands near _; a woman looks at _; two children play beside _; a crowd is gathering around _; a boy points at _; a couple walks past _""",
    "person": """kind:
adj: young; tall; happy; strong; proud; tired; smiling
acts: stands; waits; looks around; smiles; rests; gets ready
places: in the field; near the water; in the garden; beside a friend; in front of a crowd; under the trees; at the church; on the beach
people: a woman smiles at _; two men talk to _; a girl stands beside _; a boy waves to _; a crowd watches _; a man shakes hands with _""",
}

# Words that say what a member of the family is.
KINDS: dict[str, str] = {
    "dog": "dog dogs puppy hound terrier spaniel collie mastiff poodle retriever barks barking greyhound",
    "cat": "cat cats kitten purring", "big_cat": "lion tiger leopard panther cat cats beast paws",
    "wolf_or_fox": "wolf wolves fox foxes dog dogs beast tail howl", "bear": "bear bears beast",
    "small_mammal": "rabbit hare squirrel mouse beaver otter weasel badger animal creature tail fur",
    "horse": "horse horses riding", "hoofed_animal": "ox oxen cow cattle sheep goat ram buffalo deer boar camel llama "
    "herd horns animals antelope pig", "monkey": "monkey monkeys ape gorilla chimpanzee", "elephant": "elephant trunk",
    "bird": "bird birds hen cock eagle hawk owl parrot swan duck goose pigeon crow wings feathers nest robin gull",
    "hen": "hen hens cock feathers", "fish": "fish shark sharks sea ocean", "snake": "snake snakes serpent",
    "lizard": "lizard dragon scales crocodile alligator", "turtle": "turtle turtles tortoise",
    "frog": "frog frogs toad newt pond creature", "insect": "insect insects bee butterfly ant beetle spider wings moth",
    "spider": "insect spider spiders web", "butterfly": "butterfly butterflies wings",
    "shellfish": "crab crabs lobster shell shells snail sea ocean pool worm", "sea_mammal": "whale whales seal sea ocean",
    "machine": "machine machines telephone telegraph typewriter camera wire wires",
    "clothes": "dress dresses gown coat coats shirt skirt cloak jacket robe scarf apron glove clothes silk wool cloth "
    "lace velvet wearing dressed", "wear": "wearing", "music": "piano violin guitar flute drum drums organ trumpet horn "
    "harp cello music played song tune band playing", "boat": "ship boat boats vessel sails yacht canoe harbour sea sailor "
    "deck waves", "aircraft": "airship balloon sky flying pilot wings flight plane", "car": "car cars wagon cart cab truck "
    "bus van wheel wheels drives driver carriage driving", "clock": "clock clocks watch", "house": "house houses cottage "
    "palace castle tower building barn hut roof", "box": "box bag basket barrel bucket purse chest packet drawer",
    "weapon": "gun guns rifle pistol revolver sword cannon arrow", "shop": "shop shops store bakery market library "
    "counter restaurant barber butcher", "game": "ball balls game bat match", "bridge_or_wall": "bridge wall walls fence "
    "fences gate door railing", "furniture": "chair chairs table tables bench desk sofa couch seat cabinet wardrobe shelf",
    "hat": "hat hats cap bonnet helmet", "cap": "cap hat", "bath": "bath tub basin towel towels soap wash perfume",
    "drink": "coffee tea cup cups wine bottle glass beer drink drinks", "church": "church chapel cathedral temple mosque "
    "monastery bell bells tower priest", "bicycle": "bicycle bike wheel wheels riding", "seashore": "sea shore seashore "
    "beach ocean sand waves water lake cliff bay", "train": "train railway station platform engine locomotive",
    "kitchen": "kitchen pot pots pan kettle stove oven bowl spoon cook", "lamp": "lamp candle lantern torch flame",
    "tool": "knife hammer axe saw scissors shovel spade tools", "shoe": "shoe shoes boot boots sandal stocking",
    "bed": "bed pillow cradle", "bread_and_dish": "bread cake pie soup meat plate dish dinner lunch food eats eating table "
    "kitchen supper chocolate", "fruit": "fruit apple apples orange lemon strawberry fig banana pineapple corn cabbage "
    "mushroom vegetables garden basket orchard", "mushroom": "mushroom mushrooms", "mountain": "mountain mountains hills "
    "hill valley volcano snow peaks", "flower": "flower flowers daisy", "object": "", "structure": "", "person": "",
}


def _classes() -> dict[int, tuple[str, str]]:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "classes.tsv")
    with open(path, encoding="utf-8", newline="") as file:
        return {int(row["class_index"]): (row["name"], row["family"])
                for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


CLASSES = _classes()
SCENES = (
    """a man; a woman; an old man; a young woman; a boy; a girl; a couple; two women; a tall man
in a dark coat; with a small bag; in a white shirt; with an umbrella; ; ; with a dog
walking; standing; waiting; sitting alone; resting; looking around; reading a paper
on a busy street; at the corner of the street; in the rain; under the trees; on a bench in the park; near the station; in front of a shop; on the bridge; in the square
in the morning; in the evening; at night; on a cold day; in the warm light; ; in the snow""",
    """a family; three friends; a man and a woman; a mother and her child; an old couple; four people; two girls; a party of friends
sitting; eating; laughing; talking; drinking tea; having dinner; sharing a meal
at a long table; in the kitchen; in a bright room; around a small table; in the garden; by the fire; at a table near the window
with bread and wine; with plates of food; with cups of coffee; in the evening; on a summer day; ; by candle light""",
    """a boy; a girl; two children; a young man; a father and his son; three boys; a group of children; a woman
playing; running; swimming; walking; lying; standing; jumping; building a castle
on the beach; in the waves; on the sand near the sea; by the water; at the edge of the sea; on the shore of a lake
in the sun; under a blue sky; with a ball; at sunset; on a windy day; ; in summer""",
    """the sun; a pale moon; a dark cloud; a soft light; heavy rain; thick snow; a grey mist; bright light
falls; lies; hangs; shines; moves
over the green hills; over the quiet town; on the roofs of the village; over the sea; on the fields; in the forest; above the river; over the road
in the evening; early in the morning; in winter; at the end of the day; ; after the storm""",
    """a small bedroom; a large living room; a quiet room; a clean kitchen; a bath room; an old library; a narrow hall; a bright office
with a wide window; with white walls; with a wooden floor; with a fire; with old furniture; with flowers on the table; with pictures on the wall
and a soft chair; and a large bed; and a long table; and a lamp; and many books; and a mirror; and a clock""",
    """a man; a young man; a woman; a boy; a girl; two men; a group of people; a player
riding; running; skating; climbing; throwing a ball; playing a game; jumping; training; racing
in a green field; on the grass; in the snow; on a steep hill; in the park; on the road; before a crowd; in the mountains
in a red shirt; on a cold day; in the sun; ; with great speed; in the afternoon; at night""",
    """a bride and groom; a young couple; two lovers; a man in a suit; a woman in a white dress; a lady in a long gown; a singer; an old priest
standing; dancing; smiling; kissing; singing; walking; waiting
in a church; in a garden; in a large hall; on the stairs; under a tree; before a crowd; at a party
with flowers; in the evening; in the soft light; ; with friends; at sunset; while music plays""",
    """a green field; a long road; a small river; a quiet village; an old farm; a wide valley; a path; a lonely lake
lies; is seen; stretches away; runs; waits
under a blue sky; among the hills; between tall trees; below the mountains; behind a stone wall; near the sea
in the morning; in autumn; in spring; on a summer day; ; covered with snow; at the end of the day""",
    """an old woman; a young girl; a man with a beard; a baby; a child; a little boy; a young woman with long hair; an old man with a hat
smiling; sleeping; reading; writing a letter; holding a book; looking at a picture; crying; laughing
in a soft chair; by the window; in a warm room; on the bed; at a desk; near the fire; on the porch; in the arms of her mother
in the evening; in the morning light; with a cup of tea; ; with a cat; while it rains""",
    """a crowd of people; many people; a line of cars; several buses; two policemen; a group of tourists; some soldiers; a band
standing; waiting; passing; moving; marching; gathering
in the city; on a wide street; before a tall building; at the station; at the market; on a bridge; in the square; along the river
at night; in the rain; on a holiday; with flags; ; in the morning; under bright lights""",
)
