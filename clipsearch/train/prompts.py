"""Words of the whole world: 200 searches to see what was forgotten, and sentences to hold on to."""

_THINGS = """
a dog; a cat; a horse; a cow; a sheep; a bird; a duck on a pond; a butterfly; a bee on a flower;
a fish; a rabbit; a squirrel in a tree; an elephant; a lion; a giraffe; a monkey; a snake;
a frog; a spider web; a puppy in the grass; a sunset over the ocean; a sunrise; a beach;
palm trees; waves breaking on rocks; a lake among mountains; snow on mountains; a waterfall;
a river; a forest in autumn; a field of flowers; a desert; a rainbow; lightning; fog;
a starry sky; the moon; clouds; rain on a window; frost on leaves; a garden; a rose; sunflowers;
tulips; a cactus; mushrooms; a tree in blossom; fallen leaves; a vineyard; a vegetable patch;
a city skyline at night; a street with shops; a narrow alley; a bridge; a church; a castle;
a tower; a lighthouse; a market; a museum; a train station; an airport; a harbour with boats;
a skyscraper; a farm; a barn; a windmill; a fountain; a statue; graffiti; a staircase;
an old wooden door; a red car; a bicycle; a motorcycle; a bus; a train; a tram;
an aeroplane in the sky; a helicopter; a sailing boat; a ship; a truck; a tractor; a traffic jam;
a baby; a toddler playing; children on a playground; a girl laughing; a boy with a ball;
a woman with sunglasses; a man with a beard; an old couple; a family; a group of friends;
a crowd; a bride and groom; a wedding cake; a birthday party; children blowing out candles;
a Christmas tree; presents; fireworks; a carnival; a concert; people dancing; a band on stage;
someone playing the guitar; a piano; a choir; a theatre; a school class; a graduation; a meeting;
someone at a computer; a person reading; a selfie; a person sleeping; someone cooking;
people eating at a table; a picnic; a barbecue; a pizza; pasta; a salad; soup; bread;
a hamburger; sushi; a steak; fruit in a bowl; apples; strawberries; a chocolate cake; ice cream;
cookies; breakfast; a cup of coffee; a glass of wine; beer; a cocktail; a restaurant; a kitchen;
a living room; a bedroom; a bathroom; a sofa; a bookshelf; a lamp; a clock; a television;
a telephone; a laptop; a camera; a pair of shoes; a hat; an umbrella; a handbag; a watch;
jewellery; toys; a teddy bear; building blocks; a doll; a chess board; playing cards;
a football match; a tennis player; a swimmer; a swimming pool; a skier; a snowboarder;
ice skating; a surfer; a climber; hikers on a path; a campfire; a tent; fishing; a runner;
someone doing yoga; a gym; a cyclist on a road; a horse rider; a basketball game; a skateboarder;
kayaks; a diver under water; a coral reef; a hot-air balloon; a roller coaster; a zoo;
an aquarium; a hospital; a document; a receipt; a whiteboard; a sign; a map; a screenshot
"""

GENERAL_PROMPTS = tuple(
    f"a photo of {thing}" for thing in _THINGS.strip().replace("\n", " ").split("; ")
)

# Sentences of other words than the searches above, which measure: those are never trained on.
_WHO = """
a man; a woman; a boy; a girl; two men; two women; a couple; three people; a group of people;
several children; an old man; a young woman; a worker; a person in a red shirt; a man in a hat;
a woman in a blue dress; a child in a yellow jacket; a player in white; a brown dog; a black dog;
two dogs; a white cat; a bird; a horse; a team; a crowd; a musician; a tourist; somebody
"""
_DOES = """
is standing; is sitting; is walking; is running; is jumping; is climbing; is holding something;
is looking at the camera; is smiling; is talking; is carrying a bag; is riding a bike; is throwing
a ball; is catching a frisbee; is swimming; is eating; is drinking; is working; is waiting;
is pointing; is taking pictures; is lying down; is pulling a rope; is playing; is watching others
"""
_WHERE = """
on the street; on the beach; in the water; in the snow; in a field; in the grass; on a rock; on a
hill; in a park; in front of a building; near a fence; by a wall; on a bench; at a table; in a
room; on a stage; in a boat; on a track; under a tree; at night; in the city; on the sidewalk;
through the woods; over a bar; in the sand; with a stick; next to a car; by the river
"""


def _words(text: str) -> list[str]:
    return " ".join(text.split()).split("; ")


GENERAL_SENTENCES = tuple(
    f"{who} {does} {where}"
    for who in _words(_WHO)
    for does in _words(_DOES)
    for where in _words(_WHERE)
)
