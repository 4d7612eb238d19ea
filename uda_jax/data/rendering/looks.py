"""The two domains as numbers: how their streets are laid out, painted, lit and photographed.

Both looks run through the same generator and the same camera model. Everything that makes the domain gap is here.
"""

import dataclasses

Range = tuple[float, float]
Colours = tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Geometry statistics. Lengths in metres, angles in degrees, densities per 100 m of one side of the street."""

    camera_height: Range
    camera_pitch: Range  # positive looks down
    camera_yaw: float  # standard deviation
    road_half: Range
    sidewalk: Range
    verge_share: float  # share of blocks with a strip of grass at the kerb
    building_width: Range
    storeys: Range
    lot_share: float  # share of building sites left open
    barriers: tuple[float, float, float]  # odds of wall, fence, hedge around an open lot
    parked: float  # share of streets sides with parked cars
    parked_gap: Range
    traffic: float
    heavy: float  # share of traffic that is a lorry or bus
    trees: float
    bushes: float
    people: float
    riders: float
    bicycles: float
    motorcycles: float
    lamps: float
    signs: float
    traffic_lights: float
    bollards: float
    crossing_share: float


@dataclasses.dataclass(frozen=True)
class Palette:
    """Albedo colours (sRGB); one entry is drawn per object and varied by `jitter`."""

    jitter: float
    road: Colours
    marking: Colours
    sidewalk: Colours
    terrain: Colours
    facade: Colours
    trim: Colours
    window: Colours
    roof: Colours
    car: Colours
    cloth: Colours
    skin: Colours
    foliage: Colours
    bark: Colours
    pole: Colours
    barrier: Colours
    sign: Colours


@dataclasses.dataclass(frozen=True)
class Look:
    """One domain: layout, palette, and how strongly each effect of a real camera shows (0 = not at all)."""

    name: str
    key: int  # part of every random seed
    layout: Layout
    palette: Palette
    texture: float  # contrast of surface textures
    stains: float  # contrast of large blotches on all surfaces
    window_variety: float  # brightness spread between the windows of one facade
    shadows: float  # depth of cast shadows in full sun
    contact: float  # darkness under cars and people
    clouds: float
    blur: Range  # standard deviation in pixels
    noise: Range  # standard deviation of a mid grey, in units of full scale
    exposure: Range  # factor
    white_balance: float  # standard deviation of the log gain of red and blue
    vignette: float
    conditions: tuple[tuple[str, float], ...]  # name, share of frames


@dataclasses.dataclass(frozen=True)
class Weather:
    """The light of one condition: intensities are linear RGB, sky colours sRGB bytes."""

    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    haze: float  # extinction per metre
    clouds: float = 1.0  # factor on the look's clouds
    sun_height: Range = (28.0, 62.0)  # degrees
    lamps: float = 0.0  # strength of street lamps, head lights and lit windows
    lit_share: float = 0.0  # share of windows with light
    noise: float = 1.0  # factor on the look's noise


# A day lies anywhere between the first two.
SUNNY = Weather(
    sun=(1.6, 1.52, 1.38), ambient=(0.34, 0.35, 0.38), zenith=(70, 120, 200), horizon=(186, 208, 228), haze=0.0025
)
OVERCAST = Weather(
    sun=(0.2, 0.19, 0.17), ambient=(0.81, 0.84, 0.91), zenith=(196, 202, 210), horizon=(228, 230, 232), haze=0.0025
)
WEATHERS = {
    "clean": Weather(
        sun=(0.45, 0.45, 0.45),
        ambient=(0.72, 0.72, 0.72),
        zenith=(84, 150, 232),
        horizon=(170, 208, 244),
        haze=0.0,
        sun_height=(55.0, 55.0),
    ),
    "dusk": Weather(
        sun=(0.5, 0.26, 0.14),
        ambient=(0.27, 0.26, 0.36),
        zenith=(50, 62, 112),
        horizon=(236, 150, 92),
        haze=0.004,
        sun_height=(6.0, 14.0),
        lamps=0.35,
        lit_share=0.25,
    ),
    "fog": Weather(
        sun=(0.0, 0.0, 0.0),
        ambient=(0.75, 0.75, 0.75),
        zenith=(190, 194, 198),
        horizon=(190, 194, 198),
        haze=0.028,
        clouds=0.0,
        lamps=0.1,
    ),
    "night": Weather(
        sun=(0.012, 0.014, 0.02),
        ambient=(0.075, 0.08, 0.11),
        zenith=(10, 12, 24),
        horizon=(44, 40, 48),
        haze=0.004,
        clouds=0.3,
        lamps=1.0,
        lit_share=0.3,
        noise=1.5,
    ),
}

SIMULATOR = Look(
    name="simulator",
    key=1,
    layout=Layout(
        camera_height=(1.5, 1.75),
        camera_pitch=(-1.0, 2.5),
        camera_yaw=2.0,
        road_half=(4.6, 7.2),
        sidewalk=(2.4, 4.2),
        verge_share=0.45,
        building_width=(12.0, 26.0),
        storeys=(2.0, 8.0),
        lot_share=0.3,
        barriers=(0.4, 0.35, 0.25),
        parked=0.35,
        parked_gap=(1.5, 14.0),
        traffic=2.6,
        heavy=0.25,
        trees=4.0,
        bushes=3.0,
        people=6.0,
        riders=2.4,
        bicycles=2.6,
        motorcycles=2.2,
        lamps=4.0,
        signs=3.0,
        traffic_lights=2.0,
        bollards=2.0,
        crossing_share=0.5,
    ),
    palette=Palette(
        jitter=0.12,
        road=((70, 72, 80), (78, 80, 86), (64, 66, 72)),
        marking=((240, 240, 240), (235, 225, 160)),
        sidewalk=((176, 164, 156), (166, 168, 172), (186, 174, 158)),
        terrain=((104, 158, 66), (122, 168, 74)),
        facade=((206, 140, 112), (222, 196, 146), (150, 172, 196), (196, 196, 190), (176, 206, 170), (224, 170, 160)),
        trim=((238, 238, 232), (120, 90, 70)),
        window=((60, 92, 130), (74, 104, 136)),
        roof=((168, 78, 58), (110, 106, 110)),
        car=(
            (206, 40, 36),
            (36, 76, 190),
            (238, 238, 238),
            (236, 196, 40),
            (40, 150, 80),
            (60, 62, 70),
            (240, 130, 40),
        ),
        cloth=(
            (226, 60, 60),
            (50, 96, 210),
            (240, 220, 80),
            (70, 170, 96),
            (240, 240, 240),
            (150, 70, 170),
            (48, 54, 84),
        ),
        skin=((232, 190, 160), (196, 146, 112), (120, 82, 60)),
        foliage=((58, 140, 52), (76, 156, 60), (48, 122, 60)),
        bark=((112, 82, 58),),
        pole=((128, 132, 138), (96, 100, 108)),
        barrier=((186, 176, 164), (150, 110, 84), (200, 200, 204)),
        sign=((208, 36, 36), (36, 84, 190), (240, 200, 40)),
    ),
    texture=0.08,
    stains=0.04,
    window_variety=0.1,
    shadows=0.0,
    contact=0.3,
    clouds=0.12,
    blur=(0.0, 0.0),
    noise=(0.0, 0.0),
    exposure=(0.96, 1.04),
    white_balance=0.0,
    vignette=0.0,
    conditions=(("clean", 1.0),),
)

CAMERA = Look(
    name="camera",
    key=2,
    layout=Layout(
        camera_height=(1.25, 1.55),
        camera_pitch=(-1.0, 4.0),
        camera_yaw=3.0,
        road_half=(3.2, 4.8),
        sidewalk=(2.2, 4.4),
        verge_share=0.35,
        building_width=(8.0, 18.0),
        storeys=(3.0, 6.0),
        lot_share=0.3,
        barriers=(0.32, 0.43, 0.25),
        parked=0.6,
        parked_gap=(0.8, 12.0),
        traffic=2.0,
        heavy=0.24,
        trees=5.0,
        bushes=2.0,
        people=9.0,
        riders=3.5,
        bicycles=5.0,
        motorcycles=2.2,
        lamps=4.0,
        signs=4.5,
        traffic_lights=2.0,
        bollards=4.0,
        crossing_share=0.4,
    ),
    palette=Palette(
        jitter=0.3,
        road=((118, 114, 108), (92, 92, 94), (136, 132, 126), (104, 98, 94)),
        marking=((214, 212, 204), (196, 194, 186)),
        sidewalk=((112, 108, 104), (140, 134, 126), (128, 108, 98), (98, 98, 102)),
        terrain=((104, 102, 58), (122, 110, 74), (88, 98, 52)),
        facade=(
            (126, 74, 58),
            (196, 178, 148),
            (150, 146, 140),
            (92, 84, 78),
            (214, 208, 196),
            (186, 150, 96),
            (120, 116, 112),
            (164, 118, 96),
        ),
        trim=((196, 190, 180), (84, 72, 62), (150, 148, 144)),
        window=((46, 48, 52), (110, 118, 126), (72, 70, 66), (150, 156, 162)),
        roof=((110, 62, 48), (76, 74, 76), (90, 70, 58)),
        car=(
            (28, 28, 30),
            (92, 94, 98),
            (168, 170, 172),
            (222, 222, 220),
            (36, 44, 70),
            (64, 62, 58),
            (112, 30, 28),
            (120, 110, 96),
        ),
        cloth=(
            (34, 34, 38),
            (60, 62, 76),
            (96, 86, 74),
            (44, 52, 74),
            (130, 126, 120),
            (110, 44, 42),
            (186, 180, 170),
            (70, 78, 56),
        ),
        skin=((208, 164, 138), (170, 122, 94), (96, 66, 50)),
        foliage=((66, 78, 40), (88, 92, 44), (128, 92, 40), (54, 66, 44), (104, 80, 54), (146, 120, 50)),
        bark=((74, 64, 54), (92, 84, 76)),
        pole=((92, 94, 94), (60, 62, 62), (140, 142, 142), (70, 84, 74)),
        barrier=((148, 140, 130), (96, 76, 60), (118, 116, 114), (128, 82, 66)),
        sign=((168, 36, 34), (40, 70, 136), (206, 204, 196), (196, 160, 50)),
    ),
    texture=1.0,
    stains=0.17,
    window_variety=0.9,
    shadows=0.8,
    contact=0.6,
    clouds=1.0,
    blur=(0.2, 0.55),
    noise=(0.008, 0.025),
    exposure=(0.75, 1.3),
    white_balance=0.07,
    vignette=0.3,
    conditions=(("day", 0.7), ("dusk", 0.1), ("fog", 0.1), ("night", 0.1)),
)

LOOKS = {look.name: look for look in (SIMULATOR, CAMERA)}
