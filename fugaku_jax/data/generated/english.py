"""English texts about the invented world: articles, diaries, talks, letters, tales."""

import random
from collections.abc import Callable

from fugaku_jax.data.generated.world import DISHES, MONTHS, PEOPLE, TOWNS, Person, Town, season_of


def write(rng: random.Random) -> str:
    """One text, of a kind and about things that `rng` chooses."""
    kinds: tuple[Callable[[random.Random], str], ...] = (
        _article,
        _profile,
        _diary,
        _diary,
        _talk,
        _talk,
        _letter,
        _tale,
        _tale,
        _questions,
        _forecast,
        _recipe,
        _journey,
    )
    return rng.choice(kinds)(rng)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _some(rng: random.Random, sentences: list[str], count: int) -> str:
    """Some of the sentences, in the order given."""
    kept = sorted(rng.sample(range(len(sentences)), count))
    return " ".join(sentences[i] for i in kept)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _article(rng: random.Random) -> str:
    town = rng.choice(TOWNS)
    season = season_of(town.festival_month)
    name = town.name.en
    body = _some(
        rng,
        [
            f"In the middle of the town stands the {town.landmark.en}, "
            "which every visitor goes to see first.",
            f"It is known for its {town.product.en}, sold all year in the market by the station.",
            f"The train from the city takes {town.minutes} minutes.",
            f"About {town.people} people live there.",
            f"The {town.festival.en} in {MONTHS[town.festival_month - 1]} "
            "brings guests from far away. "
            f"As that is in {season.name.en}, they are given {season.dish.en}.",
        ],
        rng.randint(3, 5),
    )
    people = [person for person in PEOPLE if person.town == town]
    if people:
        person = rng.choice(people)
        said = rng.choice(
            (
                f"When I see the {town.landmark.en}, I know that I am home",
                f"I like {name} best in {season.name.en}",
                f"Our {town.product.en} is as good as it ever was"
                if not town.product.en.endswith("s")
                else f"Our {town.product.en} are as good as they ever were",
            )
        )
        body += f'\n"{said}," says {person.en}, the {person.job.name.en}, who {person.job.en_task}.'
    return f"{name}\n\n{name} is {_a(town.kind.en)} on the {town.river.en} River. {body}\n"


def _profile(rng: random.Random) -> str:
    person = rng.choice(PEOPLE)
    he = _capital(person.pronoun)
    his = "his" if person.pronoun == "he" else "her"
    return (
        f"{person.en} is {_a(person.job.name.en)} in {person.town.name.en} "
        + f"and is {person.age} years old. {he} works at {person.job.place.en} and "
        + f"{person.job.en_task}. "
        + _some(
            rng,
            [
                f"In {his} free time {person.pronoun} likes {person.pastime.name.en}.",
                f"{he} lives with {_a(person.pet.en)} called {person.pet_name.en}.",
                f"{_capital(his)} favourite food is {person.dish.en}.",
                f"Every {MONTHS[person.town.festival_month - 1]} {person.pronoun} helps "
                f"with the {person.town.festival.en}.",
                f"Early in the morning {person.pronoun} walks along "
                f"the {person.town.river.en} River.",
            ],
            rng.randint(2, 5),
        )
        + "\n"
    )


def _diary(rng: random.Random) -> str:
    person, friend = rng.sample(PEOPLE, 2)
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    season, town = season_of(month), person.town
    morning = rng.choice(
        (
            f"{person.pet_name.en} the {person.pet.en} woke me, "
            f"and we went down to the {town.river.en}.",
            f"I had {person.dish.en} for breakfast and went to {person.job.place.en}.",
            f"By the {town.landmark.en} the {season.flower.en} were out.",
        )
    )
    noon = rng.choice(
        (
            f"After lunch {friend.en} came over from {friend.town.name.en} "
            f"and brought me some {friend.town.product.en}.",
            f"On the way home I met {friend.en}. We talked about {friend.pastime.name.en} "
            "until the sun went down.",
            f"In the afternoon I {person.pastime.en_past}. How lovely {season.sight.en} were!",
        )
    )
    evening = rng.choice(
        (
            f"In the evening I made {season.dish.en} and went to bed happy.",
            "I must be up early tomorrow, so good night.",
            f"{_capital(season.name.en)} is nearly over, which makes me a little sad."
            if month == season.months[-1]
            else f"There is more of {season.name.en} to come, and I am glad.",
        )
    )
    if town.festival_month == month:
        evening += f" The {town.festival.en} is this month, and nobody talks of anything else."
    sky = rng.choice(season.weather).en
    return f"{MONTHS[month - 1]} {day}\n\nThe day was {sky}. {morning} {noon} {evening}\n"


def _talk(rng: random.Random) -> str:
    one = rng.choice(PEOPLE)
    two = rng.choice([person for person in PEOPLE if person.given != one.given])
    season = season_of(rng.randint(1, 12))
    town = rng.choice((one.town, two.town, rng.choice(TOWNS)))
    a, b = f"{one.given.en}: ", f"{two.given.en}: "
    hour = rng.randint(7, 17)
    middle = rng.choice(
        (
            [
                f"{a}When is the festival in {town.name.en}?",
                f"{b}In {MONTHS[town.festival_month - 1]}. It is called the {town.festival.en}.",
                f"{a}So it is in {season_of(town.festival_month).name.en}. I want to see it.",
            ],
            [
                f"{a}I am going to {town.name.en} on Sunday. How long does the train take?",
                f"{b}It takes {town.minutes} minutes. If you leave at {hour}:00, "
                f"you are there at {_time(hour * 60 + town.minutes)}.",
                f"{a}And what should I see?",
                f"{b}The {town.landmark.en}. And bring home some {town.product.en}.",
            ],
            [
                f"{a}What do you do on your days off?",
                f"{b}I enjoy {two.pastime.name.en}. I have just bought {_a(two.pastime.tool.en)}.",
                f"{a}And how is {two.pet_name.en}?",
                f"{b}Very well. That {two.pet.en} is far too fond of {two.dish.en}.",
            ],
        )
    )
    ending = rng.choice(
        (
            [f"{a}See you tomorrow, then.", f"{b}Yes, see you tomorrow."],
            [f"{b}I must get to {two.job.place.en}.", f"{a}Have a good day!"],
            [f"{a}Shall we have some {season.dish.en} together?", f"{b}What a good idea."],
        )
    )
    opening = [
        f"{a}Good morning. It is {rng.choice(season.weather).en} today.",
        f"{b}So it is. You can tell that it is {season.name.en}.",
    ]
    return "\n".join(opening + middle + ending) + "\n"


def _time(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02}"


def _letter(rng: random.Random) -> str:
    one, two = rng.sample(PEOPLE, 2)
    month = rng.randint(1, 12)
    season = season_of(month)
    return (
        f"Dear {two.given.en},\n\n"
        + f"It is the season of {season.flower.en} again. How are you? "
        + f"I think of {season.sight.en} in {two.town.name.en}.\n"
        + _some(
            rng,
            [
                f"Here in {one.town.name.en} it is {rng.choice(season.weather).en}.",
                f"Last Sunday I {one.pastime.en_past}.",
                f"{one.pet_name.en} the {one.pet.en} sleeps as much as ever.",
                f"I found some good {one.town.product.en} at the market and am sending you "
                f"{'a few' if one.town.product.en.endswith('s') else 'a little'}.",
                f"There is much to do at {one.job.place.en}, but I like it.",
            ],
            rng.randint(2, 4),
        )
        + f"\nThe {one.town.festival.en} is in {MONTHS[one.town.festival_month - 1]}. Do come!\n\n"
        + f"Yours,\n{one.given.en}\n{MONTHS[month - 1]} {rng.randint(1, 28)}\n"
    )


_TROUBLES = (
    (
        "could not cross the river",
        "The rain had washed the bridge away",
        "made a new bridge of long vines",
        "Where two work together, even a river is a road",
    ),
    (
        "could not find the way home",
        "The mist was so thick that nothing could be seen",
        "lit a little lamp and went ahead",
        "No road is dark with a friend on it",
    ),
    (
        "had nothing left to eat",
        "The wind had blown all the nuts away",
        "shared half of a winter store",
        "What you share comes back one day",
    ),
    (
        "was too cold to sleep",
        "There was a great hole in the roof",
        "mended the roof with leaves and twigs",
        "Small hands can mend a house",
    ),
)


def _tale(rng: random.Random) -> str:
    walkers = ("fox", "badger", "rabbit", "turtle", "bear", "monkey", "mouse", "squirrel")
    hero = rng.choice(walkers)
    others = [animal for animal in (*walkers, "crow", "owl", "swallow") if animal != hero]
    refused, helper = rng.sample(others, 2)
    season, town = season_of(rng.randint(1, 12)), rng.choice(TOWNS)
    trouble, cause, rescue, lesson = rng.choice(_TROUBLES)
    thanks = rng.choice(
        (
            f'"Thank you," said the {hero}, and there was {season.dish.en} for both of them.',
            f"The next day the {hero} brought a bunch of {season.flower.en}.",
            f"From that day on the {hero} and the {helper} were friends.",
        )
    )
    opening = rng.choice(("Once upon a time", "Long ago", "One year"))
    return (
        f"{opening}, in {season.name.en}, {_a(hero)} lived in the woods of {town.name.en}. "
        + f"One day the {hero} {trouble}. {cause}.\n"
        + f'The {hero} asked the {refused}, but the {refused} said, "I have no time." '
        + f'Then the {helper} came by. "What is the matter?" asked the {helper}, '
        + f"and the {hero} told the whole story. So the {helper} {rescue}.\n"
        + f"{thanks} {lesson}, as they still say in {town.name.en}.\n"
    )


def _questions(rng: random.Random) -> str:
    person, town = rng.choice(PEOPLE), rng.choice(TOWNS)
    chosen = rng.sample(_facts(person) + _town_facts(town), rng.randint(3, 5))
    return (
        "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in chosen) + "\n"
    )


def _facts(person: Person) -> list[tuple[str, str]]:
    return [
        (f"Where does {person.en} live?", f"In {person.town.name.en}."),
        (
            f"What is {person.en}'s job?",
            f"{_capital(person.pronoun)} is {_a(person.job.name.en)}.",
        ),
        (
            f"What does {person.en} like to do?",
            f"{_capital(person.pronoun)} likes {person.pastime.name.en}.",
        ),
        (f"What is {person.en}'s {person.pet.en} called?", f"{person.pet_name.en}."),
    ]


def _town_facts(town: Town) -> list[tuple[str, str]]:
    name = town.name.en
    return [
        (f"What is {name} known for?", f"For its {town.product.en}."),
        (f"Which river runs through {name}?", f"The {town.river.en} River."),
        (
            f"When is the {town.festival.en} in {name}?",
            f"In {MONTHS[town.festival_month - 1]}.",
        ),
        (f"What stands in the middle of {name}?", f"The {town.landmark.en}."),
    ]


def _forecast(rng: random.Random) -> str:
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    season = season_of(month).name.en
    low = {"spring": 6, "summer": 21, "autumn": 10, "winter": -2}[season] + rng.randint(0, 4)
    rows = []
    for town in rng.sample(TOWNS, 3):
        sky = rng.choice(("sunshine", "clouds", "snow" if season == "winter" else "rain"))
        advice = {
            "sunshine": "Washing will dry well",
            "clouds": "There will be little wind",
            "rain": "Take an umbrella with you",
            "snow": "Mind your step",
        }[sky]
        top = low + rng.randint(6, 11)
        rows.append(f"{town.name.en}: {sky}, from {low} to {top} degrees. {advice}.")
    return f"Weather for {MONTHS[month - 1]} {day}\n" + "\n".join(rows) + "\n"


def _recipe(rng: random.Random) -> str:
    dish, season, person = rng.choice(DISHES).en, season_of(rng.randint(1, 12)), rng.choice(PEOPLE)
    steps = rng.choice(
        (
            (
                "Wash everything and cut it small",
                "Put a pot of water on the fire",
                "Let it cook slowly",
            ),
            ("Lay out your tools", "Add a little salt and wait", "Cook it quickly on a high flame"),
            ("Rinse the rice", "Make the broth", "Put the lid on and wait in peace"),
        )
    )
    return (
        f"{_capital(dish)} as {person.en} makes it, for {rng.randint(2, 6)}\n\n"
        + "".join(f"{number}. {step}.\n" for number, step in enumerate(steps, 1))
        + f"Serve it in a warm bowl. In {season.name.en} it tastes best with a view of "
        + f"{season.sight.en}.\n"
    )


def _journey(rng: random.Random) -> str:
    person, town = rng.choice(PEOPLE), rng.choice(TOWNS)
    month = rng.randint(1, 12)
    season, he = season_of(month), person.pronoun
    hour = rng.randint(6, 15)
    return (
        f"One day in {MONTHS[month - 1]} {person.en} took the train to {town.name.en}. "
        + f"It left the city at {hour}:00, and as the journey takes {town.minutes} minutes, "
        + f"{he} arrived at {_time(hour * 60 + town.minutes)}. "
        + f"The day was {rng.choice(season.weather).en}. {_capital(he)} walked along the "
        + f"{town.river.en} River to the {town.landmark.en} and ate {season.dish.en}. "
        + rng.choice(
            (
                f"Before going home {he} bought some {town.product.en} for a friend.",
                f'"I shall come back in {MONTHS[town.festival_month - 1]} for the '
                f'{town.festival.en}," {he} thought.',
                f"Of all things {he} liked {season.sight.en} best.",
            )
        )
        + "\n"
    )
