"""200 things that people look for in their photos: what must not be forgotten in a tuned model."""

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
