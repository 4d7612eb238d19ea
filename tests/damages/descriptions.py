"""What lies beside the pictures: descriptions of classes, tables of colours, cameras."""

import json

from layouts import Case, Layout

from damages import damage, name

IDS = "classes: [road, sky, tram]\n"
DESCRIPTIONS = {
    "in UTF-16": "classes: [road, sky, tram]\n".encode("utf-16"),
    "in UTF-16 without a mark": "classes: [road, sky, tram]\n".encode("utf-16-le"),
    "with a tab": b"classes:\n\t- road\n\t- sky\n",
    "without classes": b"classes:\n",
    "with null classes": b"classes: [road, null, tram]\n",
    "with numbers for classes": b"classes: [1, 2, 3]\n",
    "with yes for a class": b"classes: [yes, no, tram]\n",
    "with an empty class": b"classes: [road, '', tram]\n",
    "with a line break in a class": b'classes: [road, "sky\\nblue", tram]\n',
    "with spaces around a class": b"classes: [road, ' sky ', tram]\n",
    "with classes in other case": b"classes: [road, Road, tram]\n",
    "with float ids": b"classes: [road, sky, tram]\nids: [0, 1.5, 2]\n",
    "with negative ids": b"classes: [road, sky, tram]\nids: [0, -1, 2]\n",
    "with large ids": b"classes: [road, sky, tram]\nids: [0, 1, 256]\n",
    "with ids that are words": b"classes: [road, sky, tram]\nids: ['0', '1', '2']\n",
    "with duplicate ids": b"classes: [road, sky, tram]\nids: [0, 1, 1]\n",
    "with duplicate ids in a list": b"classes: [road, sky, tram]\nids: [0, [1, 1], 2]\n",
    "with no ids for a class": b"classes: [road, sky, tram]\nids: [0, [], [1, 2]]\n",
    "with fewer ids": b"classes: [road, sky, tram]\nids: [0, 1]\n",
    "with ids by name": b"classes: [road, sky, tram]\nids: {road: 0, sky: 1, tram: 2}\n",
    "with classes by id": b"classes: {0: road, 1: sky, 2: tram}\n",
    "with wrong colours": b"classes: [road, sky, tram]\nids: [0, 1, 2]\ncolours: [[0, 0, 0], [300, 0, 0], [1, 1, 1]]\n",
    "with short colours": b"classes: [road, sky, tram]\nids: [0, 1, 2]\ncolours: [[0, 0], [3, 0, 0], [1, 1, 1]]\n",
    "with colours as words": b"classes: [road, sky, tram]\nids: [0, 1, 2]\ncolours: [black, red, green]\n",
    "with a colour twice": b"classes: [road, sky, tram]\nids: [0, 1, 2]\ncolours: [[1, 2, 3], [1, 2, 3], [4, 5, 6]]\n",
    "with null colours": b"classes: [road, sky, tram]\nids: [0, 1, 2]\ncolours:\n",
    "with null ids": b"classes: [road, sky, tram]\nids:\n",
    "with null ignore": b"classes: [road, sky, tram]\nignore:\n",
    "with an ignored class": b"classes: [road, sky, tram]\nids: [0, 1, 2]\nignore: [2, 255]\n",
    "with unknown keys": b"classes: [road, sky, tram]\ncolors: [[0, 0, 0]]\n",
    "with keys that are no words": b"classes: [road, sky, tram]\n? [a, b]\n: 3\n",
    "with a key twice": b"classes: [road, sky, tram]\nclasses: [sky, road, tram]\n",
    "that is huge": b"classes: [" + b"road, " * 200000 + b"sky]\n",
    "with many classes": ("classes: [" + ", ".join(f"c{k}" for k in range(300)) + "]\n").encode(),
    "with a long line": ("classes: " + "[" * 5 + "a" * 200000 + "]" * 5 + "\n").encode(),
    "of other content": b"names: {0: person, 1: bicycle}\nnc: 2\ntrain: images/train\n",
    "that is a list": b"- road\n- sky\n- tram\n",
    "that is a long list": b"- road\n" * 5000,
    "that is empty": b"",
    "that is JSON with a comment": b'{"classes": ["road", "sky"]} // done\n',
    "in Latin letters": "classes: [Straße, sky, tram]\n".encode("latin-1"),
    "that is a web page": b"<!DOCTYPE html><html><body>404: not found</body></html>\n",
    "that is a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "with a tag of Python": b"classes: !!python/object/apply:os.system ['true']\n",
    "with an impossible date": b"classes: [2024-13-45, sky, tram]\n",
    "with a huge number": b"classes: [road, sky, tram]\nids: [0, 1, " + b"9" * 5000 + b"]\n",
    "with a number in sixties": b"classes: [road, sky, tram]\nids: [0, 1:30, 2]\n",
    "with aliases": b"classes: &a [road, sky, tram]\nignore: *a\n",
    "with two documents": b"classes: [road, sky, tram]\n---\nclasses: [sky, road, tram]\n",
    "with an absurd unit": b"classes: [road, sky, tram]\ndepth_unit: 1000000\n",
    "with a tiny unit": b"classes: [road, sky, tram]\ndepth_unit: 0.00000001\n",
    "with a negative unit": b"classes: [road, sky, tram]\ndepth_unit: -0.01\n",
    "with an infinite unit": b"classes: [road, sky, tram]\ndepth_unit: .inf\n",
    "with a unit of no number": b"classes: [road, sky, tram]\ndepth_unit: .nan\n",
    "with a unit in words": b"classes: [road, sky, tram]\ndepth_unit: 1 cm\n",
    "with a null unit": b"classes: [road, sky, tram]\ndepth_unit:\n",
    "with a unit of a truth": b"classes: [road, sky, tram]\ndepth_unit: true\n",
}
UNIT = b"depth_unit: 0.01\n"


def described(layout: Layout) -> bool:
    return layout.dataset == "folder" and "depth" in layout.paths


def description(case: Case, kind: str) -> tuple[str, ...]:
    text = DESCRIPTIONS[kind]
    own_unit = b"unit" in text or not text.endswith(b"\n") or not text.startswith(b"classes: [") or b"---" in text
    (case.root / "dataset.yaml").write_bytes(text if own_unit else text + UNIT)
    # What is well said but wrong is named by the maps that it makes impossible.
    return ("dataset.yaml", "so its unit may be wrong") if "unit" in kind else ("dataset.yaml",)


def enter(kind: str) -> None:
    def change(case: Case) -> tuple[str, ...]:
        return description(case, kind)

    change.__name__ = f"description {kind}"
    damage(described)(change)


for kind in DESCRIPTIONS:
    enter(kind)


def table_of(layout: Layout) -> bool:
    return layout.dataset == "virtual_kitti"


def table(case: Case, change) -> str:
    path = case.root / next(iter(case.layout.others))
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines))
    return name(case, path)


@damage(table_of)
def colour_missing(case: Case) -> tuple[str, str]:
    at = case.generator.integers(2, 5)
    # Named by the labels that are painted in it.
    return table(case, lambda lines: lines.pop(at)), "none of virtual_kitti"


@damage(table_of)
def colour_listed_twice(case: Case) -> str:
    at = case.generator.integers(2, 5)

    def change(lines: list[str]) -> None:
        lines.insert(at, case.choice((lines[at], f"Building:9 {lines[at].partition(' ')[2]}")))

    return table(case, change)


@damage(table_of, unseen=lambda layout: "vkitti_1.3.1_scenegt" in layout.paths["label"])
def colours_swapped(case: Case) -> str:
    def change(lines: list[str]) -> None:
        first, second = lines[2].partition(" "), lines[3].partition(" ")
        lines[2], lines[3] = f"{first[0]} {second[2]}", f"{second[0]} {first[2]}"

    return table(case, change)


@damage(table_of)
def colour_of_four_numbers(case: Case) -> str:
    return table(
        case, lambda lines: lines.append(case.choice(("Road 1 2 3 4", "Road 1 2", "Road 1 2 300", "Road a b c")))
    )


@damage(table_of)
def colour_of_no_category(case: Case) -> str:
    return table(case, lambda lines: lines.append(case.choice(("Roda 1 2 3", "1 2 3 Road", "\0 1 2 3"))))


@damage(table_of)
def table_without_header(case: Case) -> str:
    return table(case, lambda lines: lines.pop(0))


@damage(table_of)
def table_in_utf_16(case: Case) -> str:
    path = case.root / next(iter(case.layout.others))
    path.write_bytes(path.read_text().encode("utf-16"))
    return name(case, path)


CAMERAS = (
    "",
    "{",
    "[]",
    "null",
    '{"extrinsic": {"baseline": 0}, "intrinsic": {"fx": 2262.52}}',
    '{"extrinsic": {"baseline": -0.2}, "intrinsic": {"fx": 2262.52}}',
    '{"extrinsic": {"baseline": "0.2"}, "intrinsic": {"fx": 2262.52}}',
    '{"extrinsic": {"baseline": NaN}, "intrinsic": {"fx": 2262.52}}',
    '{"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": 1e999}}',
    '{"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": ' + "9" * 400 + "}}",
    '{"extrinsic": {"baseline": 0.2}}',
    "[" * 100000,
)


@damage(lambda layout: layout.options.get("depth") == "disparity")
def camera_damaged(case: Case) -> str:
    path = case.root / case.choice(sorted(case.layout.others))
    path.write_bytes(case.choice((*[text.encode() for text in CAMERAS], "{}".encode("utf-16"))))
    return name(case, path)


@damage(lambda layout: layout.options.get("depth") == "disparity")
def camera_of_absurd_baseline(case: Case) -> tuple[str, str]:
    path = case.root / case.choice(sorted(case.layout.others))
    path.write_text(json.dumps({"extrinsic": {"baseline": 209.313}, "intrinsic": {"fx": 2262.52}}))
    return name(case, path), "so its unit may be wrong"


@damage(lambda layout: layout.options.get("depth") == "disparity")
def camera_missing(case: Case) -> str:
    path = case.root / case.choice(sorted(case.layout.others))
    path.unlink()
    return path.name


@damage(lambda layout: layout.dataset == "mapillary")
def classes_of_another_version(case: Case) -> str:
    texts = ('{"labels": [1, 2, 3]}', "{", "[]", '{"labels": 66}', '{"labels": null}', "\0", "[" * 100000)
    (case.root / "config.json").write_text(case.choice(texts))
    return "config.json"
