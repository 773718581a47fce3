"""Text data of CaR, word for word: templates, background queries, the queries of two data sets."""

CAM_TEMPLATE = "a clean origami {}."

CLASSIFIER_TEMPLATES = (
    "a clean origami {}.",
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""The fifteen templates of the semantic configurations; three lack the full stop, as in the official ones."""

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "shipped": tuple(
        (
            "ground, land, grass, tree, building, wall, sky, lake, water, river, sea, railway, railroad, helmet, "
            "cloud, house, mountain, ocean, road, rock, street, valley, bridge"
        ).split(", ")
    ),
    "terrestrial": tuple(
        (
            "ground, land, grass, tree, mountain, rock, valley, earth, terrain, forest, bush, hill, field, pasture, "
            "meadow, plateau, cliff, canyon, ridge, peak, plain, prairie, tundra, savanna, steppe, crag, knoll, dune, "
            "glen, dale, copse, thicket"
        ).split(", ")
    ),
    "aquatic-atmospheric": tuple(
        (
            "sea, ocean, lake, water, river, sky, cloud, pond, stream, lagoon, bay, gulf, fjord, estuary, creek, "
            "brook, reservoir, pool, spring, marsh, swamp, wetland, glacier, iceberg, atmosphere, stratosphere, mist, "
            "fog, rain, drizzle, hail, sleet, snow, thunderstorm, breeze, wind, gust, hurricane, tornado, monsoon, "
            "cumulus, cirrus, stratus, nimbus"
        ).split(", ")
    ),
    "man-made": tuple(
        (
            "building, house, wall, road, street, railway, railroad, bridge, edifice, structure, apartment, "
            "condominium, skyscraper, highway, boulevard, lane, alley, byway, avenue, expressway, freeway, path, "
            "overpass, underpass, viaduct, tunnel, footbridge, crosswalk, culvert, dam, archway, causeway, plaza, "
            "square, station, terminal"
        ).split(", ")
    ),
    "none": (),
}
"""Background queries: the 23 that every official configuration ships, and the groups of the paper's Table 6."""

VOC_QUERIES = (
    "aeroplane",
    "bicycle",
    "bird avian",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair seat",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person with clothes,people,human",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor screen",
)
"""Pascal VOC's twenty, as CLIP-ES words them."""

COCO_QUERIES = (
    "person with clothes,people,human",
    "bicycle",
    "car",
    "motorbike",
    "aeroplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird avian",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack,bag",
    "umbrella,parasol",
    "handbag,purse",
    "necktie",
    "suitcase",
    "frisbee",
    "skis",
    "sknowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "dessertspoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair seat",
    "sofa",
    "pottedplant",
    "bed",
    "diningtable",
    "toilet",
    "tvmonitor screen",
    "laptop",
    "mouse",
    "remote control",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hairdrier,blowdrier",
    "toothbrush",
)
"""COCO Object's eighty; 'sknowboard' is the official spelling."""

STUFF: dict[str, tuple[str, ...]] = {
    "context": tuple(
        (
            "bedclothes, ceiling, cloth, curtain, floor, grass, ground, light, mountain, platform, road, sidewalk, "
            "sky, snow, wall, water, window, wood, door, fence, rock"
        ).split(", ")
    ),
    "context459": tuple(
        (
            "atrium, ceiling, concrete, coral, court, dock, floor, foam, grass, ground, ice, leaves, mountain, "
            "parterre, patio, road, rock, rug, sand, sky, snow, stone, sun, wall, water, wood"
        ).split(", ")
    ),
    "ade150": (
        "wall",
        "sky",
        "floor, flooring",
        "tree",
        "ceiling",
        "road, route",
        "grass",
        "earth, ground",
        "mountain, mount",
        "plant, flora, plant, life",
        "water",
        "sea",
        "field",
        "sand",
        "skyscraper",
        "path",
        "river",
        "bridge, span",
        "flower",
        "hill",
        "land, ground, soil",
        "dirt, track",
        "apparel, wearing, apparel, dress, clothes",
        "lake",
        "waterfall, falls",
    ),
}
"""Labels that the official evaluation of a data set segments in a second pass. ADE-847 has them as numbers only."""
