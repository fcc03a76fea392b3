"""Japanese texts about the invented world: articles, diaries, talks, letters, tales."""

import random
from collections.abc import Callable

from fugaku_jax.data.generated.world import DISHES, PEOPLE, TOWNS, Person, Town, season_of


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
        _lost_thing,
    )
    return rng.choice(kinds)(rng)


def _some(rng: random.Random, sentences: list[str], count: int) -> str:
    """Some of the sentences, in the order given."""
    kept = sorted(rng.sample(range(len(sentences)), count))
    return "".join(sentences[i] for i in kept)


def _article(rng: random.Random) -> str:
    town = rng.choice(TOWNS)
    season = season_of(town.festival_month)
    name = town.name.ja
    first = rng.choice(
        (
            f"{name}は、{town.river.ja}のほとりにある{town.kind.ja}である。",
            f"{name}は{town.kind.ja}で、人口はおよそ{town.people}人である。",
        )
    )
    body = _some(
        rng,
        [
            f"町の中心には{town.landmark.ja}があり、旅人はまずここを訪れる。",
            f"名物は{town.product.ja}で、駅前の市場では一年を通して売られている。",
            f"都会からは列車で{town.minutes}分かかる。",
            f"毎年{town.festival_month}月には{town.festival.ja}が開かれ、遠くからも人が集まる。"
            f"祭りは{season.name.ja}の行事なので、会場では{season.dish.ja}がふるまわれる。",
            f"{town.river.ja}には橋が{len(name) + 1}つかかっている。",
        ],
        rng.randint(3, 5),
    )
    people = [person for person in PEOPLE if person.town == town]
    if people:
        person = rng.choice(people)
        body += f"\n{person.job.name.ja}の{person.ja}さんは、この町で{person.job.ja_task}。"
        body += rng.choice(
            (
                f"「{town.landmark.ja}を見ると、帰ってきたと思います」と話す。",
                f"「{season.name.ja}の{name}がいちばん好きです」と笑う。",
                f"「{town.product.ja}の味は昔と変わりません」と言う。",
            )
        )
    return f"{name}\n\n{first}{body}\n"


def _profile(rng: random.Random) -> str:
    person = rng.choice(PEOPLE)
    return (
        f"{person.ja}さんは{person.town.name.ja}に住む{person.age}歳の{person.job.name.ja}です。"
        + f"{person.job.place.ja}で働いていて、{person.job.ja_task}のが仕事です。"
        + _some(
            rng,
            [
                f"趣味は{person.pastime.name.ja}で、休みの日には{person.pastime.tool.ja}を持って出かけます。",
                f"家では{person.pet.ja}の{person.pet_name.ja}と暮らしています。",
                f"好きな食べ物は{person.dish.ja}です。",
                f"{person.town.festival_month}月の{person.town.festival.ja}では、毎年手伝いをしています。",
                f"朝は早く起きて、{person.town.river.ja}の岸を散歩します。",
            ],
            rng.randint(2, 5),
        )
        + "\n"
    )


def _diary(rng: random.Random) -> str:
    person = rng.choice(PEOPLE)
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    season, town = season_of(month), person.town
    friend = rng.choice(PEOPLE)
    opening = f"{month}月{day}日\n\n今日は{rng.choice(season.weather).ja}いた。"
    morning = rng.choice(
        (
            f"{person.pet.ja}の{person.pet_name.ja}に起こされて、{town.river.ja}まで歩いた。",
            f"朝ご飯に{person.dish.ja}を食べてから、{person.job.place.ja}へ行った。",
            f"{town.landmark.ja}の前を通ると、{season.flower.ja}が咲いていた。",
        )
    )
    noon = rng.choice(
        (
            f"昼すぎに{friend.ja}さんが{friend.town.name.ja}から訪ねてきて、"
            f"おみやげに{friend.town.product.ja}をくれた。",
            f"仕事の帰りに{friend.ja}さんに会った。{friend.pastime.name.ja}の話になり、"
            "気がつくと日が暮れていた。",
            f"午後は{person.pastime.ja_past}。{season.sight.ja}がきれいだった。",
        )
    )
    evening = rng.choice(
        (
            f"夜は{season.dish.ja}を作った。体にしみるようにおいしかった。",
            "明日も早いので、もう寝ることにする。",
            f"もうすぐ{season.name.ja}も終わる。少しさびしい。"
            if month == season.months[-1]
            else f"{season.name.ja}はまだ続く。楽しみだ。",
        )
    )
    if town.festival_month == month:
        evening += f"今月は{town.festival.ja}がある。町じゅうがそわそわしている。"
    return f"{opening}{morning}{noon}{evening}\n"


def _talk(rng: random.Random) -> str:
    one = rng.choice(PEOPLE)
    two = rng.choice([person for person in PEOPLE if person.family != one.family])
    season, town = (
        season_of(rng.randint(1, 12)),
        rng.choice((one.town, two.town, rng.choice(TOWNS))),
    )
    a, b = f"{one.family.ja}「", f"{two.family.ja}「"
    lines = [
        f"{a}おはようございます。今日は{rng.choice(season.weather).ja}いますね。」",
        f"{b}そうですね。もうすっかり{season.name.ja}です。」",
    ]
    subject = rng.choice((_about_festival, _about_trip, _about_pastime))
    lines += subject(rng, a, b, two, town)
    lines += rng.choice(
        (
            [f"{a}では、また明日。」", f"{b}ええ、また明日。」"],
            [f"{b}そろそろ{two.job.place.ja}へ行かないと。」", f"{a}いってらっしゃい。」"],
            [f"{a}今度いっしょに{season.dish.ja}でも食べましょう。」", f"{b}いいですね。ぜひ。」"],
        )
    )
    return "\n".join(lines) + "\n"


def _about_festival(_: random.Random, a: str, b: str, __: Person, town: Town) -> list[str]:
    return [
        f"{a}{town.name.ja}のお祭りはいつですか。」",
        f"{b}{town.festival_month}月です。{town.festival.ja}といって、とてもにぎやかですよ。」",
        f"{a}{season_of(town.festival_month).name.ja}のお祭りですか。行ってみたいです。」",
    ]


def _about_trip(rng: random.Random, a: str, b: str, _: Person, town: Town) -> list[str]:
    hour = rng.randint(7, 17)
    arrival = hour * 60 + town.minutes
    return [
        f"{a}日曜日に{town.name.ja}へ行こうと思います。列車でどのくらいかかりますか。」",
        f"{b}{town.minutes}分です。{hour}時に出れば、{_time(arrival)}に着きますよ。」",
        f"{a}何を見たらいいでしょう。」",
        f"{b}{town.landmark.ja}ですね。おみやげは{town.product.ja}がいいですよ。」",
    ]


def _time(minutes: int) -> str:
    hour, minute = divmod(minutes, 60)
    return f"{hour}時{minute}分" if minute else f"{hour}時"


def _about_pastime(_: random.Random, a: str, b: str, person: Person, __: Town) -> list[str]:
    return [
        f"{a}お休みの日は何をしていますか。」",
        f"{b}{person.pastime.name.ja}です。新しい{person.pastime.tool.ja}を買ったところなんです。」",
        f"{a}{person.pet_name.ja}も元気ですか。」",
        f"{b}はい。あの{person.pet.ja}は{person.dish.ja}が好きで困ります。」",
    ]


def _letter(rng: random.Random) -> str:
    one, two = rng.sample(PEOPLE, 2)
    month = rng.randint(1, 12)
    season = season_of(month)
    return (
        f"{two.ja}様\n\n"
        + f"{season.flower.ja}の季節になりました。お元気ですか。"
        + f"{two.town.name.ja}では、もう{season.sight.ja}が見られるころでしょうか。\n"
        + _some(
            rng,
            [
                f"こちら{one.town.name.ja}では、{rng.choice(season.weather).ja}います。",
                f"先週の日曜日は{one.pastime.name.ja}を楽しみました。",
                f"{one.pet.ja}の{one.pet_name.ja}は、相変わらずよく眠っています。",
                f"近所の市場で{one.town.product.ja}を見つけたので、少しお送りします。",
                f"{one.job.place.ja}の仕事は忙しいですが、楽しく続けています。",
            ],
            rng.randint(2, 4),
        )
        + f"\n{one.town.festival_month}月には{one.town.festival.ja}があります。"
        + "どうぞ遊びに来てください。\n\n"
        + f"{month}月{rng.randint(1, 28)}日　{one.ja}\n"
    )


_TROUBLES = (
    (
        "川の向こうへ渡れなくなりました",
        "大雨で橋が流されてしまったのです",
        "長いつるで新しい橋をかけて",
        "力を合わせれば、川も道になる",
    ),
    (
        "家へ帰る道がわからなくなりました",
        "霧が深くて、何も見えなかったのです",
        "小さな明かりをともして",
        "暗い道でも、友だちがいればこわくない",
    ),
    (
        "食べるものがなくなりました",
        "蓄えておいた木の実を、風が吹き飛ばしてしまったのです",
        "自分の木の実を半分に分けて",
        "分けたものは、いつか帰ってくる",
    ),
    (
        "寒くて眠れなくなりました",
        "屋根に大きな穴が開いていたのです",
        "木の葉と枝で穴をふさいで",
        "小さな手でも、家は直せる",
    ),
)


def _tale(rng: random.Random) -> str:
    walkers = ("きつね", "たぬき", "うさぎ", "かめ", "くま", "さる", "ねずみ", "りす", "いたち")
    animals = (*walkers, "からす", "ふくろう", "つばめ")  # a bird needs no bridge
    hero = rng.choice(walkers)
    helper, refused = rng.sample([animal for animal in animals if animal != hero], 2)
    season, town = season_of(rng.randint(1, 12)), rng.choice(TOWNS)
    trouble, cause, rescue, lesson = rng.choice(_TROUBLES)
    thanks = rng.choice(
        (
            f"「ありがとう」と{hero}は言い、{season.dish.ja}をごちそうしました。",
            f"{hero}は次の日、お礼に{season.flower.ja}を一輪持っていきました。",
            f"{hero}と{helper}は、それからずっと仲よく暮らしました。",
        )
    )
    return (
        rng.choice(("むかしむかし、", "ある年の", "むかし、"))
        + f"{season.name.ja}のことです。{town.name.ja}の森に、一ぴきの{hero}が住んでいました。"
        + f"ある日、{hero}は{trouble}。{cause}。\n"
        + f"{hero}は{refused}に頼みましたが、{refused}は「いそがしいから」と断りました。"
        + f"そこへ{helper}が通りかかりました。「どうしたの」と{helper}がたずねると、"
        + f"{hero}はわけを話しました。{helper}は{rescue}、{hero}を助けてくれました。\n"
        + f"{thanks}{lesson}。町の人は今でもそう言います。\n"
    )


def _questions(rng: random.Random) -> str:
    person, town = rng.choice(PEOPLE), rng.choice(TOWNS)
    pairs = [
        (f"{town.name.ja}の名物は何ですか。", f"{town.product.ja}です。"),
        (f"{town.name.ja}を流れる川は何といいますか。", f"{town.river.ja}です。"),
        (f"{town.name.ja}の{town.festival.ja}は何月ですか。", f"{town.festival_month}月です。"),
        (f"{town.name.ja}の中心には何がありますか。", f"{town.landmark.ja}があります。"),
        (f"{person.ja}さんはどこに住んでいますか。", f"{person.town.name.ja}です。"),
        (f"{person.ja}さんの仕事は何ですか。", f"{person.job.name.ja}です。"),
        (f"{person.ja}さんの趣味は何ですか。", f"{person.pastime.name.ja}です。"),
        (f"{person.ja}さんの{person.pet.ja}の名前は何ですか。", f"{person.pet_name.ja}です。"),
    ]
    chosen = rng.sample(pairs, rng.randint(3, 5))
    return "\n".join(f"問い：{question}\n答え：{answer}" for question, answer in chosen) + "\n"


def _forecast(rng: random.Random) -> str:
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    season = season_of(month)
    low = {"春": 6, "夏": 21, "秋": 10, "冬": -2}[season.name.ja] + rng.randint(0, 4)
    rows = []
    for town in rng.sample(TOWNS, 3):
        sky = rng.choice(("晴れ", "くもり", "雪" if season.name.ja == "冬" else "雨"))
        advice = {
            "晴れ": "洗濯物がよく乾くでしょう",
            "くもり": "風は弱いでしょう",
            "雨": "傘を持ってお出かけください",
            "雪": "足もとに気をつけてください",
        }[sky]
        top = low + rng.randint(6, 11)
        rows.append(f"{town.name.ja}は{sky}、最低気温は{low}度、最高気温は{top}度です。{advice}。")
    return f"{month}月{day}日の天気予報です。\n" + "\n".join(rows) + "\n"


def _recipe(rng: random.Random) -> str:
    dish, people = rng.choice(DISHES).ja, rng.randint(2, 6)
    season, person = season_of(rng.randint(1, 12)), rng.choice(PEOPLE)
    steps = rng.choice(
        (
            ("材料を洗って、小さく切る", "鍋に水を入れて、火にかける", "弱火でゆっくり煮る"),
            ("道具をそろえる", "塩を少しふって、しばらく待つ", "強火でさっと火を通す"),
            ("米をとぐ", "だしをとる", "ふたをして、静かに待つ"),
        )
    )
    return (
        f"{person.ja}さんの{dish}（{people}人分）\n\n"
        + "".join(f"{number}　{step}。\n" for number, step in enumerate(steps, 1))
        + "できあがったら、器に盛る。"
        + f"{season.name.ja}には{season.sight.ja}をながめながら食べるとよい。"
        + f"{person.town.name.ja}の{person.town.product.ja}を添えると、いっそう楽しい。\n"
    )


def _lost_thing(rng: random.Random) -> str:
    owner, finder = rng.sample(PEOPLE, 2)
    season, tool = season_of(rng.randint(1, 12)), owner.pastime.tool.ja
    place = rng.choice(
        (f"{finder.town.landmark.ja}のそば", f"{finder.town.river.ja}の岸", "駅の待合室")
    )
    return (
        f"{season.name.ja}のある朝、{finder.job.name.ja}の{finder.ja}さんは、"
        + f"{finder.town.name.ja}の{place}で{tool}を見つけました。"
        + f"名札には「{owner.family.ja}」と書いてあります。\n"
        + f"「{owner.pastime.name.ja}の好きな人の物にちがいない」と思った{finder.family.ja}さんは、"
        + f"{owner.town.name.ja}まで届けに行きました。"
        + f"{owner.job.place.ja}にいた{owner.ja}さんは、とても喜びました。\n"
        + rng.choice(
            (
                f"お礼に{owner.town.product.ja}をもらった{finder.family.ja}さんは、うれしい気持ちで帰りました。",
                f"二人はそれから、ときどき{owner.pastime.name.ja}の話をするようになりました。",
                f"帰り道、{season.flower.ja}が風にゆれていました。",
            )
        )
        + "\n"
    )
