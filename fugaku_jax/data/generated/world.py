"""The invented world that the built-in texts tell of: its towns, people, seasons and habits.

Everything has a Japanese and an English name. The facts hold together and come back in many texts
(who lives where, what a town is known for, which month has which flower), so that a model can learn
them and a reader can see that it did.
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """One thing in two languages."""

    ja: str
    en: str


@dataclass(frozen=True)
class Season:
    """A season with what belongs to it."""

    name: Words
    months: tuple[int, ...]
    flower: Words
    weather: tuple[Words, ...]  # "the morning was …", 朝から…
    dish: Words
    sight: Words


@dataclass(frozen=True)
class Pastime:
    """Something people do when they are free: `ja` ends in を, `en` is a gerund."""

    name: Words
    ja_past: str
    en_past: str
    tool: Words


@dataclass(frozen=True)
class Job:
    """What somebody does for a living."""

    name: Words
    place: Words
    ja_task: str  # dictionary form
    en_task: str  # third person


@dataclass(frozen=True)
class Town:
    """A place with the things it is known for."""

    name: Words
    kind: Words
    river: Words
    landmark: Words
    product: Words
    festival: Words
    festival_month: int
    people: int
    minutes: int  # by train from the city


@dataclass(frozen=True)
class Person:
    """Somebody who lives in a town."""

    family: Words
    given: Words
    pronoun: str  # he or she
    age: int
    job: Job
    town: Town
    pastime: Pastime
    dish: Words
    pet: Words
    pet_name: Words

    @property
    def ja(self) -> str:
        """The full name in Japanese."""
        return self.family.ja + self.given.ja

    @property
    def en(self) -> str:
        """The full name in English."""
        return f"{self.given.en} {self.family.en}"


def _pairs(table: str) -> list[Words]:
    return [Words(*item.split("=")) for item in table.split()]


def _phrases(table: str) -> list[Words]:
    return [Words(*item.strip().split("=")) for item in table.split("|")]


def _rows(table: str) -> list[list[Words]]:
    return [_phrases(line) for line in table.strip().splitlines()]


SEASONS = (
    Season(
        Words("春", "spring"),
        (3, 4, 5),
        Words("桜", "cherry blossoms"),
        (
            Words("暖かく晴れて", "warm and bright"),
            Words("やわらかな雨が降って", "wet with soft rain"),
        ),
        Words("たけのこご飯", "rice with bamboo shoots"),
        Words("菜の花の畑", "the yellow rape fields"),
    ),
    Season(
        Words("夏", "summer"),
        (6, 7, 8),
        Words("ひまわり", "sunflowers"),
        (
            Words("朝から暑く、せみが鳴いて", "hot and loud with cicadas"),
            Words("入道雲がわいて", "hot under great white clouds"),
        ),
        Words("冷たいそうめん", "cold noodles"),
        Words("川辺のほたる", "the fireflies by the river"),
    ),
    Season(
        Words("秋", "autumn"),
        (9, 10, 11),
        Words("コスモス", "cosmos flowers"),
        (
            Words("空が高く澄んで", "clear under a high sky"),
            Words("涼しい風が吹いて", "cool and windy"),
        ),
        Words("焼き栗", "roasted chestnuts"),
        Words("山の紅葉", "the red leaves on the hills"),
    ),
    Season(
        Words("冬", "winter"),
        (12, 1, 2),
        Words("つばき", "camellias"),
        (
            Words("雪が静かに降って", "white with quiet snow"),
            Words("冷たく晴れて", "cold and clear"),
        ),
        Words("熱いおでん", "hot stew"),
        Words("雪をかぶった屋根", "the roofs under the snow"),
    ),
)

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

PASTIMES = tuple(
    Pastime(name, past.ja, past.en, tool)
    for name, past, tool in _rows(
        """
        釣り=fishing | 釣りをした=went fishing | 釣りざお=fishing rod
        写真=photography | 写真をとった=took photographs | 古いカメラ=old camera
        読書=reading | 本を読んだ=read a book | 本=book
        山歩き=hiking | 山を歩いた=walked in the hills | 地図=map
        絵=painting | 絵をかいた=painted a picture | 絵の具=box of paints
        将棋=chess | 将棋をさした=played chess | 将棋の本=book of chess problems
        庭いじり=gardening | 庭の手入れをした=worked in the garden | 花の種=bag of seeds
        星の観察=watching the stars | 星をながめた=watched the stars | 望遠鏡=telescope
        笛=playing the flute | 笛を吹いた=played the flute | 竹の笛=bamboo flute
        編み物=knitting | 編み物をした=knitted | 毛糸=ball of wool
        """
    )
)

JOBS = tuple(
    Job(name, place, task.ja, task.en)
    for name, place, task in _rows(
        """
        漁師=fisher | 港=the harbour | 夜明け前に舟を出す=takes the boat out before dawn
        パン屋=baker | 店=the bakery | 毎朝四時にパンを焼く=bakes bread at four every morning
        教師=teacher | 小学校=the school | 子どもたちに算数を教える=teaches sums to the children
        医者=doctor | 診療所=the clinic | 病気の人を診る=looks after the sick
        大工=carpenter | 工房=the workshop | 木の家を建てる=builds houses of wood
        駅員=station clerk | 駅=the station | 列車を見送る=sees off the trains
        農家=farmer | 畑=the fields | 米と野菜を育てる=grows rice and vegetables
        司書=librarian | 図書館=the library | 本を整理する=keeps the books in order
        郵便配達員=postal worker | 郵便局=the post office | 手紙を届ける=delivers the letters
        時計職人=watchmaker | 時計店=the clock shop | 止まった時計を直す=repairs stopped clocks
        料理人=cook | 食堂=the dining hall | 町の人の昼ご飯を作る=makes lunch for the town
        灯台守=lighthouse keeper | 灯台=the lighthouse | 夜の海を照らす=lights the sea at night
        """
    )
)

_TOWNS = _pairs(
    "青浜=Aohama 白川=Shirakawa 月見=Tsukimi 風間=Kazama 松原=Matsubara 水沢=Mizusawa "
    "花岡=Hanaoka 石橋=Ishibashi 竹田=Takeda 星野=Hoshino 雪国=Yukiguni 朝日=Asahi "
    "桜井=Sakurai 霧島=Kirishima 緑山=Midoriyama 灯台崎=Todaizaki 鶴岡=Tsuruoka 柿木=Kakinoki "
    "波戸=Hato 森下=Morishita 金沢原=Kanazawara 湯川=Yukawa 若草=Wakakusa 千鳥=Chidori"
)
_KINDS = _phrases(
    "静かな港町=quiet harbour town | 山あいの小さな町=small town in the hills | "
    "古い城下町=old castle town | 川沿いの町=town by a river | "
    "海に近い町=town near the sea | 温泉の町=town of hot springs"
)
_RIVERS = _pairs(
    "鈴川=Suzu 天音川=Amane 小波川=Konami 笹川=Sasa 玉川=Tama 若鮎川=Wakayu 霞川=Kasumi"
)
_LANDMARKS = _phrases(
    "赤い灯台=red lighthouse | 石の橋=stone bridge | 古い時計台=old clock tower | "
    "大きなくすの木=great camphor tree | 丘の上の神社=shrine on the hill | "
    "白い図書館=white library | 木造の駅舎=wooden station | 水車小屋=water mill"
)
_PRODUCTS = _phrases(
    "みかん=oranges | 和紙=paper | 焼き物=pottery | 緑茶=green tea | りんご=apples | "
    "干物=dried fish | 竹かご=bamboo baskets | はちみつ=honey | 絹織物=silk | 風鈴=wind bells"
)
_FESTIVALS = _phrases(
    "灯籠祭り=lantern festival | 太鼓祭り=drum festival | 花火大会=fireworks | "
    "舟祭り=boat festival | 凧揚げ大会=kite festival | 収穫祭=harvest festival"
)
_FAMILIES = _pairs(
    "佐藤=Sato 鈴木=Suzuki 高橋=Takahashi 田中=Tanaka 伊藤=Ito 山本=Yamamoto 中村=Nakamura "
    "小林=Kobayashi 加藤=Kato 吉田=Yoshida 山田=Yamada 松本=Matsumoto 井上=Inoue 木村=Kimura "
    "林=Hayashi 清水=Shimizu 森=Mori 池田=Ikeda 橋本=Hashimoto 石川=Ishikawa 小川=Ogawa "
    "藤田=Fujita 岡田=Okada 村上=Murakami"
)
_GIVEN = {
    "he": _pairs(
        "健太=Kenta 翔=Sho 大輔=Daisuke 誠=Makoto 直樹=Naoki 拓也=Takuya 一郎=Ichiro 悠=Yu "
        "和夫=Kazuo 光=Hikaru 亮=Ryo 隆=Takashi"
    ),
    "she": _pairs(
        "花子=Hanako さくら=Sakura 美咲=Misaki 陽子=Yoko 葵=Aoi 千夏=Chinatsu 文=Fumi 恵=Megumi "
        "雪=Yuki 琴音=Kotone 春香=Haruka 澄=Sumi"
    ),
}
_PETS = _pairs("犬=dog 猫=cat うさぎ=rabbit 亀=turtle 小鳥=bird")
_PET_NAMES = _pairs(
    "ポチ=Pochi モモ=Momo クロ=Kuro ソラ=Sora マメ=Mame ユズ=Yuzu コタロウ=Kotaro ハナ=Hana"
)
DISHES = _phrases(
    "カレーライス=curry and rice | 焼き魚=grilled fish | みそ汁=miso soup | "
    "おにぎり=rice balls | 天ぷら=tempura | うどん=noodles in broth | "
    "卵焼き=rolled omelette | 栗ご飯=chestnut rice"
)


def season_of(month: int) -> Season:
    """The season of a month (1 to 12)."""
    return next(season for season in SEASONS if month in season.months)


def _make_town(rng: random.Random, name: Words) -> Town:
    return Town(
        name=name,
        kind=rng.choice(_KINDS),
        river=rng.choice(_RIVERS),
        landmark=rng.choice(_LANDMARKS),
        product=rng.choice(_PRODUCTS),
        festival=rng.choice(_FESTIVALS),
        festival_month=rng.randint(1, 12),
        people=rng.randint(12, 90) * 100,
        minutes=rng.randint(3, 24) * 5,
    )


def _make_person(rng: random.Random, towns: tuple[Town, ...]) -> Person:
    pronoun = rng.choice(("he", "she"))
    return Person(
        family=rng.choice(_FAMILIES),
        given=rng.choice(_GIVEN[pronoun]),
        pronoun=pronoun,
        age=rng.randint(24, 68),
        job=rng.choice(JOBS),
        town=rng.choice(towns),
        pastime=rng.choice(PASTIMES),
        dish=rng.choice(DISHES),
        pet=rng.choice(_PETS),
        pet_name=rng.choice(_PET_NAMES),
    )


def _make_world() -> tuple[tuple[Town, ...], tuple[Person, ...]]:
    rng = random.Random(1)
    towns = tuple(_make_town(rng, name) for name in _TOWNS)
    people = {(person := _make_person(rng, towns)).ja: person for _ in range(160)}
    return towns, tuple(people.values())


TOWNS, PEOPLE = _make_world()
