"""Words of the generated needles: evaluation only, kept apart from all training text."""

from __future__ import annotations

from itertools import product

ATTRIBUTES: tuple[str, ...] = (
    "magic number",
    "lucky number",
    "locker code",
    "badge number",
    "ticket number",
    "gate code",
)
"""What a number is called. Part of the sentence pattern, so training may use these too."""

_ADJECTIVES = """
agile amber ample ashen azure balmy bashful blithe bouncy brassy brisk bronze bubbly burly calm
candid cheery chilly chubby cobalt comfy cosy crimson crisp curly dainty dapper daring
dewy dizzy dreamy drowsy dusky dusty earnest ebony feisty fluffy foamy foggy frosty frugal fuzzy
gallant giddy gilded gleeful glossy golden graceful grumpy gusty hardy hearty humble icy
indigo ivory jaunty jolly jovial keen kindly lanky lavish lilac lively loyal maroon mellow
merry mighty mild misty mossy muddy nimble noble olive peachy perky plucky plump proud
puffy quaint quirky rosy rowdy royal rugged rustic sandy scarlet shaggy shiny silky
sleepy sleek snowy snug spicy spotted sturdy sunny tawny teal thrifty tranquil velvet
vivid witty woolly zesty
"""
ADJECTIVES: tuple[str, ...] = tuple(_ADJECTIVES.split())
"""First half of a key."""

_NOUNS = """
acorn almond anvil apricot badger bamboo banjo barley beaver beetle bonnet bugle butter
cactus candle canoe canyon carrot castle cello cherry chestnut cinnamon clover
cobbler cottage cricket crow daisy dolphin donkey eagle falcon feather fern fiddle finch flute
fountain fox garlic ginger glacier goose grape hammock harbor harp hedgehog honey igloo
ivy jacket jasmine kayak kettle kitten koala lagoon lantern lily lobster magpie mango
maple marble meadow mitten moose mustard nutmeg oak orchard otter owl oyster paddle panda
peach pebble penguin pigeon pillow plum pony poppy pumpkin rabbit raccoon
raisin ribbon saddle salmon seagull sparrow spinach squirrel swan teapot thistle
tulip turnip umbrella violin waffle walnut walrus willow zebra
"""
NOUNS: tuple[str, ...] = tuple(_NOUNS.split())
"""Second half of a key."""

EVALUATION_WORDS: frozenset[str] = frozenset(ADJECTIVES) | frozenset(NOUNS)
"""Every word a key can hold. A model that is to be evaluated here must not train on any of them."""

KEYS: tuple[str, ...] = tuple(
    f"{adjective}-{noun}" for adjective, noun in product(ADJECTIVES, NOUNS)
)
"""Every key, as in ``amber-otter``, in a fixed order."""
