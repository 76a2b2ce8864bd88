"""Everything that the tiny world can name, in both languages. One home for names, colours and words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """One thing's name in each language."""

    en: str
    zh: str

    def in_language(self, language: str) -> str:
        return self.zh if language == "zh" else self.en


KINDS = {
    "circle": Name("circle", "圆形"),
    "square": Name("square", "方块"),
    "triangle": Name("triangle", "三角"),
    "star": Name("star", "星星"),
    "heart": Name("heart", "爱心"),
    "diamond": Name("diamond", "菱形"),
    "cross": Name("cross", "十字"),
    "ring": Name("ring", "圆环"),
    "house": Name("house", "房子"),
    "tree": Name("tree", "松树"),
}
BAR = "bar"  # a chart's column; drawn like a thing, never asked for as one

COLOURS = {
    "red": Name("red", "红色"),
    "green": Name("green", "绿色"),
    "blue": Name("blue", "蓝色"),
    "yellow": Name("yellow", "黄色"),
    "purple": Name("purple", "紫色"),
    "orange": Name("orange", "橙色"),
    "white": Name("white", "白色"),
    "black": Name("black", "黑色"),
}
RGB = {
    "red": (215, 40, 45),
    "green": (40, 165, 65),
    "blue": (45, 85, 215),
    "yellow": (240, 215, 50),
    "purple": (145, 60, 170),
    "orange": (245, 135, 30),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SIZES = {"small": Name("small", "小"), "large": Name("large", "大")}
PLACES = {  # row-major cells of a 3 x 3 grid
    (0, 0): Name("top left", "左上角"),
    (0, 1): Name("top", "上方"),
    (0, 2): Name("top right", "右上角"),
    (1, 0): Name("left", "左边"),
    (1, 1): Name("centre", "中间"),
    (1, 2): Name("right", "右边"),
    (2, 0): Name("bottom left", "左下角"),
    (2, 1): Name("bottom", "下方"),
    (2, 2): Name("bottom right", "右下角"),
}
RELATIONS = {
    "left": Name("left of", "左边"),
    "right": Name("right of", "右边"),
    "above": Name("above", "上面"),
    "below": Name("below", "下面"),
}
ZH_NUMBERS = ("零", "一", "两", "三", "四", "五")

EN_WORDS = tuple(
    """ACE AGE AIR ANT APPLE ARM ART BABY BAG BAKE BALL BANK BAR BEAR BED BELL BIKE BIRD BLUE BOAT BOOK BOX
    BOY BREAD BUS CAFE CAKE CALL CAR CARD CAT CITY CLUB COAT COLD COOK COW CUP DAY DEER DESK DOG DOOR DUCK
    EAST EGG EXIT FARM FAST FILM FIRE FISH FLAG FOOD FOX FREE FROG FUN GAME GATE GIFT GOAT GOLD GOOD HAT
    HELP HILL HOME HOT HOTEL ICE INN JAM JAZZ JOB KEY KING KITE LAKE LAMP LEAF LIFT LION LOVE MAP MENU MILK
    MOON MUSIC NEST NEW NIGHT NORTH NOTE OFF OPEN OWL PARK PEN PIZZA POST QUEEN QUIET RAIN RED RICE ROAD
    ROOM SALE SALT SEA SHOE SHOP SKY SLOW SNOW SOAP SOUTH STAR STOP SUN TAXI TEA TENT TIME TOY TRAIN TREE
    VAN WAIT WALK WEST WIND YARD YES ZERO ZOO""".split()
)
ZH_WORDS = tuple(
    """山 水 火 花 鱼 鸟 马 牛 车 船 店 书 大门 小山 上山 下山 上车 下车 中国 东门 西门 南门 北门
    山水 火山 火车 电车 马车 花园 公园 书店 花店 鱼店 米店 水果 果园 学校 大学 小学 中学 中文 文字 天文
    天地 春天 夏天 秋天 冬天 春风 秋风 春雨 风车 风雨 大雨 小雨 雨水 日月 星月 火星 水星 木星 木马 木门
    石门 石山 田园 水田 小鸟 小鱼 花鸟 花草 水草 草地 山羊 水牛 牛车 小船 大船 家门 国家 大家 人家 人口
    出口 入口 路口 手机 飞机 飞鸟 飞鱼 东西 南北 大小 上下 出入 日出 月色 电路 公路 上学 入学 出国 地上
    地下 天上 天下""".split()
)
EN_GLYPHS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
ZH_GLYPHS = tuple(sorted(set("".join(ZH_WORDS))))
GLYPHS = EN_GLYPHS + ZH_GLYPHS  # what the dense labels can name


def join_list(parts: list[str], language: str) -> str:
    """a, b and c / a、b和c."""
    if len(parts) == 1:
        return parts[0]
    comma, last = ("、", "和") if language == "zh" else (", ", " and ")
    return comma.join(parts[:-1]) + last + parts[-1]


def with_article(phrase: str) -> str:
    """English only: a red circle, an orange star."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
