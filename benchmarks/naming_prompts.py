"""The prompts of the blind naming test, and the names that count as right for each.

Common things that a newcomer asks for, chosen before anything was drawn and whatever the training data holds.
`TUNE` is for choosing among candidates; `FINAL` is for the figure that is published, and shares no thing with `TUNE`.
Ten of `FINAL` and five of `TUNE` ask for a colour.
"""

from __future__ import annotations

__all__ = ["FINAL", "REAL", "TUNE"]

# prompt -> names that count as right, beside the prompt's own thing
FINAL: dict[str, tuple[str, ...]] = {
    # animals
    "a cat": ("kitten", "kitty"),
    "an elephant": (),
    "a fish": ("goldfish", "tuna", "trout"),
    "an owl": (),
    "a butterfly": ("moth",),
    "a horse": ("pony", "stallion"),
    "a rabbit": ("bunny", "hare"),
    "a turtle": ("tortoise",),
    "a penguin": (),
    "a snake": ("serpent", "cobra", "viper"),
    # food and drink
    "an apple": (),
    "a banana": ("bananas",),
    "a slice of pizza": ("pizza",),
    "a hamburger": ("burger", "cheeseburger"),
    "an ice cream cone": ("ice cream", "gelato", "soft serve"),
    "a carrot": (),
    "a birthday cake": ("cake",),
    "a cup of coffee": ("coffee", "hot drink", "tea", "cup", "mug", "teacup"),
    # vehicles
    "a bicycle": ("bike", "cycle"),
    "a sailboat": ("sailing boat", "yacht", "boat", "sailing ship"),
    "an airplane": ("aeroplane", "plane", "jet", "aircraft"),
    "a train": ("locomotive", "railway", "tram", "metro", "subway"),
    "a fire truck": ("fire engine", "firetruck", "truck", "lorry"),
    "a rocket": ("rocket ship", "spaceship", "spacecraft", "missile", "space shuttle"),
    # tools and other objects
    "a hammer": ("mallet",),
    "a pair of scissors": ("scissors", "shears"),
    "a key": (),
    "an umbrella": ("parasol",),
    "an alarm clock": ("clock", "watch", "timer"),
    "a light bulb": ("bulb", "lamp", "light"),
    "an open book": ("book",),
    "a guitar": ("ukulele",),
    "a camera": (),
    "a backpack": ("rucksack", "school bag", "knapsack"),
    # plants, places, figures
    "a tree": ("oak",),
    "a sunflower": ("flower", "daisy"),
    "a house": ("home", "cottage", "cabin", "hut"),
    "a castle": ("fortress", "palace"),
    "a robot": ("android",),
    "a snowman": (),
    # with a colour
    "a blue dog": ("puppy", "hound"),
    "a red car": ("automobile", "sedan", "taxi", "vehicle"),
    "a green chair": ("armchair", "seat"),
    "a yellow bus": ("coach", "minibus"),
    "a pink shoe": ("sneaker", "trainer", "boot", "heel", "slipper"),
    "a purple dragon": ("dinosaur",),
    "an orange balloon": (),
    "a black hat": ("cap", "bowler", "fedora"),
    "a white sheep": ("lamb", "ram", "ewe"),
    "a brown bear": ("grizzly", "teddy"),
}

TUNE: dict[str, tuple[str, ...]] = {
    "a lion": (),
    "a chicken": ("hen", "rooster", "cock"),
    "an octopus": ("squid",),
    "a snail": (),
    "a whale": ("orca",),
    "a strawberry": (),
    "a loaf of bread": ("bread", "loaf", "toast"),
    "a piece of cheese": ("cheese",),
    "a watermelon": ("melon",),
    "a tractor": (),
    "a helicopter": ("chopper",),
    "a motorcycle": ("motorbike", "scooter", "moped"),
    "a lamp": ("light", "lantern"),
    "a telephone": ("phone",),
    "a pencil": ("pen", "crayon"),
    "a drum": (),
    "a cactus": ("succulent",),
    "a crown": ("tiara",),
    "a bell": (),
    "a sword": ("dagger", "blade"),
    # with a colour
    "a blue bird": (),
    "a yellow star": (),
    "a red rose": ("flower", "tulip"),
    "a purple mushroom": ("toadstool", "fungus"),
    "an orange fox": (),
}

# concept of a real drawing -> names that count as right beside its captions
REAL: dict[str, tuple[str, ...]] = {
    "american football": ("rugby ball", "ball"),
    "bar chart": ("graph", "histogram"),
    "closed padlock": ("lock",),
    "desert island": ("palm tree", "beach"),
    "dollar banknote": ("money", "cash", "bill"),
    "ear of corn": ("maize",),
    "evergreen tree": ("christmas tree",),
    "flying disc": ("frisbee",),
    "label": ("tag", "price tag"),
    "lab coat": ("doctor's coat", "jacket"),
    "new moon": ("moon",),
    "oil drum": ("barrel",),
    "open padlock": ("lock",),
    "pool ball": ("billiard ball", "eight ball", "8 ball"),
    "ring buoy": ("lifebuoy", "life ring", "lifesaver", "life preserver", "life belt"),
    "trophy": ("cup", "award"),
    "video game": ("gamepad", "controller", "joystick"),
}
