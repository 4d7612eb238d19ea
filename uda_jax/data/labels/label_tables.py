"""What data sets store: the meaning of every raw id, as class names.

Each table has one row per id, in the order of the ids from 0. A class is written by its Cityscapes name; "" is a pixel
without a class. `label_spaces` turns the rows into look-up tables.
"""

# SYNTHIA-RAND-CITYSCAPES: the class in Cityscapes terms, and the category in DADA's released 7-class code, which has no
# class for riders, buses, motorcycles and walls. Lane marking is road to DADA and nothing to all others.
SYNTHIA = (
    ("void", "", ""),
    ("sky", "sky", "sky"),
    ("building", "building", "construction"),
    ("road", "road", "flat"),
    ("sidewalk", "sidewalk", "flat"),
    ("fence", "fence", "construction"),
    ("vegetation", "vegetation", "nature"),
    ("pole", "pole", "object"),
    ("car", "car", "vehicle"),
    ("traffic sign", "traffic sign", "object"),
    ("pedestrian", "person", "human"),
    ("bicycle", "bicycle", "vehicle"),
    ("motorcycle", "motorcycle", ""),
    ("parking slot", "", ""),
    ("road work", "", ""),
    ("traffic light", "traffic light", "object"),
    ("terrain", "terrain", ""),
    ("rider", "rider", ""),
    ("truck", "truck", ""),
    ("bus", "bus", ""),
    ("train", "train", ""),
    ("wall", "wall", ""),
    ("lane marking", "", "flat"),
)

# Virtual KITTI: category names of its encoding files, numbered here, and their classes. Van counts as car and Tree as
# vegetation, as KITTI's own labels have it.
VIRTUAL_KITTI = (
    ("Undefined", ""),
    ("Terrain", "terrain"),
    ("Sky", "sky"),
    ("Tree", "vegetation"),
    ("Vegetation", "vegetation"),
    ("Building", "building"),
    ("Road", "road"),
    ("GuardRail", ""),
    ("TrafficSign", "traffic sign"),
    ("TrafficLight", "traffic light"),
    ("Pole", "pole"),
    ("Misc", ""),
    ("Truck", "truck"),
    ("Car", "car"),
    ("Van", "car"),
)

# CamVid in the 11-class packaging of SegNet. Bicyclist is rider and bicycle in one mask and counts as bicycle.
CAMVID = (
    ("sky", "sky", (128, 128, 128)),
    ("building", "building", (128, 0, 0)),
    ("pole", "pole", (192, 192, 128)),
    ("road", "road", (128, 64, 128)),
    ("sidewalk", "sidewalk", (60, 40, 222)),
    ("tree", "vegetation", (128, 128, 0)),
    ("sign", "traffic sign", (192, 128, 128)),
    ("fence", "fence", (64, 64, 128)),
    ("car", "car", (64, 0, 128)),
    ("pedestrian", "person", (64, 64, 0)),
    ("bicyclist", "bicycle", (0, 128, 192)),
    ("void", "", (0, 0, 0)),
)

# The 19 Cityscapes classes, in order, as classes of CamVid: its labels know no train.
CITYSCAPES_AS_CAMVID = (
    "road",
    "sidewalk",
    "building",
    "building",
    "fence",
    "pole",
    "sign",
    "sign",
    "tree",
    "tree",
    "sky",
    "pedestrian",
    "bicyclist",
    "car",
    "car",
    "car",
    "",
    "bicyclist",
    "bicyclist",
)

# The first level of IDD's classes, as IDD-Lite stores them.
IDD_LITE = (
    ("drivable", (128, 64, 128)),
    ("non-drivable", (244, 35, 232)),
    ("living things", (220, 20, 60)),
    ("vehicles", (0, 0, 142)),
    ("roadside objects", (220, 220, 0)),
    ("far objects", (70, 70, 70)),
    ("sky", (70, 130, 180)),
)

# The 19 Cityscapes classes, in order, as classes of IDD-Lite, inferred from IDD's hierarchy: it has buildings and
# vegetation among the far objects. Terrain as non-drivable is a choice.
CITYSCAPES_AS_IDD_LITE = (
    "drivable",
    "non-drivable",
    "far objects",
    *("roadside objects",) * 5,
    "far objects",
    "non-drivable",
    "sky",
    *("living things",) * 2,
    *("vehicles",) * 6,
)

# Mapillary Vistas 1.2: the class by three mappings, and the category of DADA's 7, in which terrain is flat, curbs
# are construction and potholes objects. "Recommended" adds ground markings, curbs and all riders to the strict mapping
# of equal names; the third is that of the MSeg taxonomy.
#     name, recommended, strict, MSeg, category
MAPILLARY = (
    ("Bird", "", "", "", ""),
    ("Ground Animal", "", "", "", ""),
    ("Curb", "sidewalk", "", "sidewalk", "construction"),
    ("Fence", "fence", "fence", "fence", "construction"),
    ("Guard Rail", "", "", "", "construction"),
    ("Barrier", "", "", "", "construction"),
    ("Wall", "wall", "wall", "wall", "construction"),
    ("Bike Lane", "road", "", "road", "flat"),
    ("Crosswalk - Plain", "road", "", "road", "flat"),
    ("Curb Cut", "sidewalk", "", "sidewalk", "flat"),
    ("Parking", "", "", "road", "flat"),
    ("Pedestrian Area", "sidewalk", "", "sidewalk", "flat"),
    ("Rail Track", "", "", "", "flat"),
    ("Road", "road", "road", "road", "flat"),
    ("Service Lane", "road", "", "road", "flat"),
    ("Sidewalk", "sidewalk", "sidewalk", "sidewalk", "flat"),
    ("Bridge", "", "", "", "construction"),
    ("Building", "building", "building", "building", "construction"),
    ("Tunnel", "", "", "", "construction"),
    ("Person", "person", "person", "person", "human"),
    ("Bicyclist", "rider", "rider", "rider", "human"),
    ("Motorcyclist", "rider", "rider", "", "human"),
    ("Other Rider", "rider", "rider", "", "human"),
    ("Lane Marking - Crosswalk", "road", "", "road", "flat"),
    ("Lane Marking - General", "road", "", "road", "flat"),
    ("Mountain", "", "", "", ""),
    ("Sand", "", "", "terrain", ""),
    ("Sky", "sky", "sky", "sky", "sky"),
    ("Snow", "", "", "", ""),
    ("Terrain", "terrain", "terrain", "terrain", "flat"),
    ("Vegetation", "vegetation", "vegetation", "vegetation", "nature"),
    ("Water", "", "", "", ""),
    ("Banner", "", "", "", ""),
    ("Bench", "", "", "", ""),
    ("Bike Rack", "", "", "", ""),
    ("Billboard", "", "", "", ""),
    ("Catch Basin", "road", "", "", ""),
    ("CCTV Camera", "", "", "", ""),
    ("Fire Hydrant", "", "", "", ""),
    ("Junction Box", "", "", "", ""),
    ("Mailbox", "", "", "", ""),
    ("Manhole", "road", "", "", ""),
    ("Phone Booth", "", "", "building", ""),
    ("Pothole", "road", "", "road", "object"),
    ("Street Light", "", "", "", "object"),
    ("Pole", "pole", "pole", "pole", "object"),
    ("Traffic Sign Frame", "", "", "traffic sign", "object"),
    ("Utility Pole", "pole", "pole", "pole", "object"),
    ("Traffic Light", "traffic light", "traffic light", "traffic light", "object"),
    ("Traffic Sign (Back)", "", "", "traffic sign", "object"),
    ("Traffic Sign (Front)", "traffic sign", "traffic sign", "traffic sign", "object"),
    ("Trash Can", "", "", "", ""),
    ("Bicycle", "bicycle", "bicycle", "bicycle", "vehicle"),
    ("Boat", "", "", "", "vehicle"),
    ("Bus", "bus", "bus", "bus", "vehicle"),
    ("Car", "car", "car", "car", "vehicle"),
    ("Caravan", "", "", "car", "vehicle"),
    ("Motorcycle", "motorcycle", "motorcycle", "motorcycle", "vehicle"),
    ("On Rails", "train", "train", "train", "vehicle"),
    ("Other Vehicle", "", "", "", "vehicle"),
    ("Trailer", "", "", "", "vehicle"),
    ("Truck", "truck", "truck", "truck", "vehicle"),
    ("Wheeled Slow", "", "", "", "vehicle"),
    ("Car Mount", "", "", "", ""),
    ("Ego Vehicle", "", "", "", ""),
    ("Unlabeled", "", "", "", ""),
)
