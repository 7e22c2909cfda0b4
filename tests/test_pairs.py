"""Pairs in every form they come in, and what is said of those that cannot be used."""

from __future__ import annotations

import errno
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_training import draw

from clipsearch.errors import TrainingDataError
from clipsearch.models.preprocess import Preprocess
from clipsearch.train.inputs import (
    Examples,
    epoch_batches,
    load_examples,
    refuse_flips_of_sides,
    split_photos,
)
from clipsearch.train.pairs import (
    LeftOut,
    carried_pairs,
    expand_braces,
    normalise_caption,
    read_labelled,
    read_pairs,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    for name, shape, colour in [("a", "ball", "red"), ("b", "box", "blue"), ("c", "bar", "green")]:
        draw(tmp_path / f"{name}.png", shape, colour, generator)
    return tmp_path


def captions_by_photo(source: Path | str, **options: Path) -> dict[str, list[str]]:
    pairs = read_pairs(source, **options)
    return {Path(p.source.member or p.source.path).name: p.captions for p in pairs.photos}


EXPECTED = {"a.png": ["a red ball", "a ball"], "b.png": ["a blue box"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", 'filepath,caption\na.png,a red ball\na.png,a ball\nb.png,"a blue box"\n'),
        ("p.csv", "filepath\ttitle\na.png\ta red ball\na.png\ta ball\nb.png\ta blue box\n"),
        ("p.tsv", "\ufeffimage\tcaption\na.png\ta red ball\na.png\ta ball\nb.png\ta blue box\n"),
        ("p.csv", "Filepath;Caption\na.png;a red ball\na.png;a ball\nb.png;a blue box\n"),
        (
            "p.jsonl",
            '{"image": "a.png", "captions": ["a red ball", "a ball"]}\n\n'
            '{"filepath": "b.png", "caption": "a blue box"}\n',
        ),
        (
            "coco.json",
            json.dumps(
                {
                    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
                    "annotations": [
                        {"image_id": 7, "caption": "a red ball"},
                        {"image_id": 8, "caption": "a blue box"},
                        {"image_id": 7, "caption": "a ball"},
                    ],
                }
            ),
        ),
    ],
)
def test_every_text_form_gives_the_same_pairs(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    assert captions_by_photo(folder / name) == EXPECTED


def test_what_is_no_text_is_no_caption(folder: Path) -> None:
    said = [None, "a red ball", {"raw": "a ball"}, "half a smile \ud83d"]
    (folder / "p.jsonl").write_text(json.dumps({"image": "a.png", "captions": said}))
    notes = [{"image_id": 7, "caption": caption} for caption in said]
    coco = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": notes}
    (folder / "coco.json").write_text(json.dumps(coco))
    for name in ("p.jsonl", "coco.json"):
        assert captions_by_photo(folder / name) == {"a.png": ["a red ball", "half a smile ?"]}
        reasons = [item.reason for item in read_pairs(folder / name).left_out]
        assert reasons == ["a caption that is no text"] * 2
    assert load(folder / "p.jsonl").captions == ["a red ball", "half a smile ?"]


def test_a_label_may_stand_in_any_row_of_its_photo(folder: Path) -> None:
    rows = ("a.png,a red ball,", "a.png,a ball,ball", "b.png,a blue box,box", "b.png,a box,crate")
    (folder / "p.csv").write_text("\n".join(("filepath,caption,label", *rows)))
    pairs = read_pairs(folder / "p.csv")
    assert [photo.label for photo in pairs.photos] == ["ball", "box"]
    assert pairs.left_out == [LeftOut(str(folder / "b.png"), "a second label")]


def test_other_captions_or_labels_are_other_data(folder: Path) -> None:
    digests = set()
    for row in ("a ball,", "a box,", "a ball,ball", "a ball,toy"):
        (folder / "p.csv").write_text(f"filepath,caption,label\na.png,{row}\n")
        digests.add(load(folder / "p.csv").digest)
    assert len(digests) == 4


def test_a_folder_with_text_files_beside_its_photos(folder: Path) -> None:
    (folder / "a.txt").write_text("a red ball\na ball\n")
    (folder / "b.txt").write_text("a blue box")
    assert captions_by_photo(folder) == EXPECTED
    assert [item.reason for item in read_pairs(folder).left_out] == [
        "no caption: no .txt beside it, none carried"
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_text_files_are_read_as_editors_write_them(folder: Path, encoding: str) -> None:
    (folder / "a.txt").write_bytes("a café\r\na bar\r\n".encode(encoding))
    assert captions_by_photo(folder) == {"a.png": ["a café", "a bar"]}
    (photo,) = carried_pairs(sorted(folder.glob("*.png"))).photos
    assert photo.captions == ["a café", "a bar"]


def test_a_text_file_that_cannot_be_read_costs_its_photo_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.txt").write_text("a red ball")
    (folder / "b.txt").write_text("a blue box")
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "a.txt":  # rights do not stop the superuser, who may run this
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    lost = LeftOut(str(folder / "a.png"), "the .txt beside it cannot be read")
    photos = [folder / "a.png", folder / "b.png"]
    assert captions_by_photo(folder) == {"b.png": ["a blue box"]}
    assert lost in read_pairs(folder).left_out
    pairs = carried_pairs(photos)
    assert [photo.captions for photo in pairs.photos] == [["a blue box"]]
    assert pairs.left_out == [lost]
    with pytest.raises(TrainingDataError, match=r"a\.png: the \.txt beside it cannot be read"):
        carried_pairs(photos[:1])


def test_photos_that_carry_their_caption(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 48), "teal")
    exif = Image.Exif()
    exif[0x010E] = "Grandmother in her garden"
    image.save(tmp_path / "g.jpg", exif=exif)
    image.save(tmp_path / "mute.jpg")
    photos = [tmp_path / "g.jpg", tmp_path / "mute.jpg"]
    pairs = carried_pairs(photos)
    assert [photo.captions for photo in pairs.photos] == [["Grandmother in her garden"]]
    with pytest.raises(TrainingDataError, match="no pairs were named") as caught:
        carried_pairs(photos[1:])
    assert "filepath,caption" in (caught.value.hint or "")


def test_webdataset_shards_by_brace_pattern(folder: Path) -> None:
    def shard(name: str, members: Sequence[tuple[str, bytes]]) -> None:
        with tarfile.open(folder / name, "w") as archive:
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    a, b, c = ((folder / f"{name}.png").read_bytes() for name in "abc")
    said = json.dumps({"captions": ["a red ball", "a ball"], "label": "ball"}).encode()
    shard("s-00.tar", [("x/1.png", a), ("x/1.json", said), ("x/2.txt", b"lonely")])
    shard("s-01.tar", [("./3.png", b), ("3.txt", b"a blue box\n"), ("4.png", c)])
    pairs = read_pairs(str(folder / "s-{00..01}.tar"))
    assert [photo.captions for photo in pairs.photos] == list(EXPECTED.values())
    assert [photo.label for photo in pairs.photos] == ["ball", None]
    assert [item.reason for item in pairs.left_out] == ["no .jpg, .png or .webp", "no caption"]
    with pairs.photos[1].source.as_file() as path:
        assert path.read_bytes() == b
    assert not path.exists()


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("1.json", b'["a red ball"]', r"p\.tar: x/1\.json is no JSON object"),
        ("1.json", b"{", r"p\.tar: x/1\.json is not JSON"),
        ("1.txt", b"caf\xe9", r"p\.tar: x/1\.txt is not UTF-8 text"),
    ],
)
def test_a_tars_member_that_cannot_be_read_is_named(
    folder: Path, member: str, content: bytes, message: str
) -> None:
    photo = (folder / "a.png").read_bytes()
    with tarfile.open(folder / "p.tar", "w") as archive:
        for name, data in (("x/1.png", photo), (f"x/{member}", content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(TrainingDataError, match=message) as caught:
        read_pairs(folder / "p.tar")
    assert caught.value.hint


def test_the_reason_why_no_photo_can_be_read_is_that_of_a_photo(folder: Path) -> None:
    (folder / "p.csv").write_text("filepath,caption\ngone.png,a ball\ngone.png,a ball\n")
    with pytest.raises(
        TrainingDataError, match=r"the only photo cannot be read: \S*gone"
    ) as caught:
        load(folder / "p.csv")
    assert "twice" not in str(caught.value)


def test_a_folder_of_photos_that_is_not_there_is_said_so(folder: Path) -> None:
    (folder / "p.csv").write_text("filepath,caption\na.png,a red ball\n")
    with pytest.raises(TrainingDataError, match="there is no such folder") as caught:
        read_pairs(folder / "p.csv", photos_folder=folder / "nowhere")
    assert caught.value.hint


def test_a_file_may_have_braces_in_its_name(folder: Path) -> None:
    table = folder / "pairs{1,2}.csv"
    table.write_text("filepath,caption\na.png,a red ball\n")
    assert [photo.captions for photo in read_pairs(table).photos] == [["a red ball"]]


def test_braces_expand_as_in_a_shell() -> None:
    assert expand_braces("a-{008..010}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert expand_braces("{x,y}{1..2}") == ["x1", "x2", "y1", "y2"]
    assert expand_braces("odd {name}.csv") == ["odd {name}.csv"]


def test_paths_are_relative_to_the_pairs_file_or_to_a_named_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    table = folder / "sub" / "p.csv"
    table.write_text("filepath,caption\na.png,a red ball\n")
    assert read_pairs(table).photos[0].source.path == folder / "sub" / "a.png"
    for named in (folder, str(folder)):
        assert read_pairs(table, photos_folder=named).photos[0].source.path == folder / "a.png"
    table.write_text("filepath,label\na.png,ball\n")
    for named in (folder, str(folder)):
        ((photo, _),), _ = read_labelled(table, photos_folder=named)
        assert photo.path == folder / "a.png"
    with pytest.raises(TrainingDataError, match="there is no such folder"):
        read_labelled(table, photos_folder=folder / "nowhere")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "photo_name,words\na.png,red\n", "no column names the photo.*'photo_name'"),
        ("p.csv", "filepath,words\na.png,red\n", "no column names the caption"),
        ("p.csv", "", "no column names the photo"),
        ("p.csv", "filepath,caption\n", "holds no captioned photo"),
        (
            "p.csv",
            'filepath,caption\na.png,"two\nlines"\nb.png,"12 inches\nc.png,a bar\n',
            "line 4: a quote is opened and never closed",
        ),
        ("p.jsonl", "not json\n", "line 1 is not JSON"),
        ("p.jsonl", "[1]\n", "no JSON object"),
        ("p.json", "[]", "not COCO captions JSON"),
        ("p.tar", "not a tar", "not an uncompressed WebDataset tar"),
        ("p.xlsx", "", "not known"),
    ],
)
def test_what_cannot_be_read_is_one_clear_message(
    folder: Path, name: str, text: str, message: str
) -> None:
    (folder / name).write_text(text)
    with pytest.raises(TrainingDataError, match=message) as caught:
        read_pairs(folder / name)
    assert caught.value.hint


def test_a_caption_with_a_bare_comma_is_not_cut_off(folder: Path) -> None:
    (folder / "p.csv").write_text(
        'filepath,caption\na.png,a ball, in the snow\nb.png,"a box, in the snow"\nc.png,a bar,\n'
    )
    assert captions_by_photo(folder / "p.csv") == {
        "b.png": ["a box, in the snow"],
        "c.png": ["a bar"],
    }
    (lost,) = read_pairs(folder / "p.csv").left_out
    assert lost.what == f"{folder / 'p.csv'}, line 2"
    assert lost.reason == "more fields than the header: put the caption in quotes"
    with pytest.raises(TrainingDataError, match="to be left out or cut"):
        load(folder / "p.csv", strict=True)


def test_a_missing_file_or_wrong_encoding(folder: Path) -> None:
    with pytest.raises(TrainingDataError, match="does not exist"):
        read_pairs(folder / "none.csv")
    (folder / "p.csv").write_bytes(b"filepath,caption\na.png,caf\xe9\n")
    with pytest.raises(TrainingDataError, match="not UTF-8"):
        read_pairs(folder / "p.csv")


def test_labels_from_class_folders_and_tables(folder: Path) -> None:
    generator = np.random.default_rng(2)
    draw(folder / "set" / "golden_retriever" / "1.png", "ball", "red", generator)
    draw(folder / "set" / "cat" / "deep" / "2.png", "box", "red", generator)
    draw(folder / "set" / "loose.png", "box", "red", generator)
    photos, _ = read_labelled(folder / "set")
    assert sorted(label for _, label in photos) == ["cat", "golden retriever"]
    (folder / "l.csv").write_text("filepath,label\na.png,ball\nb.png,\n")
    photos, left_out = read_labelled(folder / "l.csv")
    assert [(photo.path.name, label) for photo, label in photos] == [("a.png", "ball")]
    assert [item.reason for item in left_out] == ["no label"]


# ---------------------------------------------------------------------------- checking


def tokenise(captions: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    tokens = np.zeros((len(captions), 8), dtype=np.int64)
    return tokens, [i for i, caption in enumerate(captions) if len(caption.split()) > 8]


def load(source: Path, **options: bool) -> Examples:
    return load_examples(read_pairs(source), Preprocess(32), tokenise, **options)


def test_everything_left_out_is_counted_with_its_reason(folder: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "p.csv").write_text(
        "filepath,caption\na.png,a red ball\na.png,A red  ball.\nb.png,\nb.png,a blue box\n"
        "gone.png,nothing\nbroken.png,half\ncopy.png,another word for it\n,nobody\n"
        "copy.png,A red ball!\n"
        "c.png,one two three four five six seven eight nine\n"
    )
    examples = load(folder / "p.csv")
    assert len(examples) == 3
    assert examples.captions[:2] == ["a red ball", "another word for it"]
    reasons = [item.reason for item in examples.left_out]
    for reason in (
        "the same caption twice",
        "an empty caption",
        "no photo is named",
        "the same photo as another file",
    ):
        assert reasons.count(reason) == 1
    assert len(reasons) == 6
    summary = examples.summary()
    assert "3 photos with 4 captions" in summary
    assert "left out: 1 x an empty caption" in summary
    assert "1 caption is longer than the model reads" in summary
    with pytest.raises(TrainingDataError, match="to be left out or cut"):
        load(folder / "p.csv", strict=True)


def test_no_photo_at_all_says_where_it_looked(folder: Path) -> None:
    (folder / "p.csv").write_text("filepath,caption\ngone.png,x\n")
    with pytest.raises(TrainingDataError, match="the only photo cannot be read") as caught:
        load(folder / "p.csv")
    assert "--photos" in (caught.value.hint or "")


# ---------------------------------------------------------------------------- splits and batches


def many(folder: Path, lines: list[str]) -> Examples:
    (folder / "many.csv").write_text("filepath,caption\n" + "\n".join(lines))
    return load(folder / "many.csv")


def noise_photo(path: Path, seed: int) -> None:
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(grid).resize((90, 90), Image.Resampling.BICUBIC).save(path)


def test_splits_are_by_photo_with_look_alikes_and_bursts_on_one_side(tmp_path: Path) -> None:
    lines = []
    for number in range(40):
        noise_photo(tmp_path / f"{number}.png", number)
        lines += [f"{number}.png,first of {number}", f"{number}.png,second of {number}"]
    for number in range(8):  # the same pictures again, smaller and compressed
        with Image.open(tmp_path / f"{number}.png") as image:
            image.resize((70, 70)).save(tmp_path / f"{number}-small.jpg", quality=60)
        lines.append(f"{number}-small.jpg,again {number}")
    for number in range(4):  # unlike pictures of one camera within seconds
        exif = Image.Exif()
        exif[0x0110] = "Camera 1"
        exif.get_ifd(0x8769)[0x9003] = f"2024:05:01 10:00:0{2 * number}"
        noise_photo(tmp_path / "shot.png", 100 + number)
        with Image.open(tmp_path / "shot.png") as image:
            image.save(tmp_path / f"burst{number}.jpg", exif=exif)
        lines.append(f"burst{number}.jpg,burst {number}")
    examples = many(tmp_path, lines)
    assert len(examples) == 52
    names = examples.captions_of(np.arange(52))[1]
    assert len(names) == len(examples.captions)
    assert examples.groups[40] == examples.groups[0]
    assert len(set(examples.groups[48:52])) == 1
    assert len(set(examples.groups[:40])) == 40
    for seed in range(5):
        split = split_photos(examples, validation=0.15, test=12, seed=seed)
        assert sorted(np.concatenate(split)) == list(range(52))
        assert len(split.test) == 12
        sides = [set(examples.groups[rows]) for rows in split]
        assert len(set.union(*sides)) == sum(map(len, sides))


def test_photos_of_one_colour_are_not_taken_for_one_photo(tmp_path: Path) -> None:
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{number}.png")
    examples = many(tmp_path, [f"{number}.png,photo {number}" for number in range(3)])
    assert len(set(examples.groups)) == 3


def test_too_few_photos_and_one_caption_for_all_are_refused(tmp_path: Path) -> None:
    for number in range(30):
        noise_photo(tmp_path / f"{number}.png", number)
    few = many(tmp_path, [f"{number}.png,number {number}" for number in range(9)])
    with pytest.raises(TrainingDataError, match="too few"):
        split_photos(few, validation=0.2, test=0.2, seed=0)
    same = many(tmp_path, [f"{number}.png,my photo" for number in range(30)])
    with pytest.raises(TrainingDataError, match="one and the same caption"):
        split_photos(same, validation=0.2, test=0.2, seed=0)
    enough = many(tmp_path, [f"{number}.png,number {number}" for number in range(30)])
    with pytest.raises(TrainingDataError, match="cannot be split"):
        split_photos(enough, validation=15, test=14, seed=0)


def test_a_batch_has_each_photo_and_each_caption_once(tmp_path: Path) -> None:
    lines = []
    for number in range(36):
        noise_photo(tmp_path / f"{number}.png", number)
        lines += [f"{number}.png,kind {number % 9}", f"{number}.png,a Kind {number % 9}!"]
    examples = many(tmp_path, lines)
    drawn: dict[int, set[int]] = {}
    for epoch in range(8):
        batches = epoch_batches(examples, np.arange(36), 12, epoch, seed=0)
        rows = np.concatenate([batch.photos for batch in batches])
        assert len(set(rows)) == len(rows) > 28  # a short rest waits for another epoch
        for batch in batches:
            assert len(set(batch.photos)) == len(batch.photos)
            assert len(set(examples.caption_ids[batch.captions])) == len(batch.captions)
            assert np.array_equal(examples.photo_of_caption[batch.captions], batch.photos)
            for photo, caption in zip(batch.photos, batch.captions, strict=True):
                drawn.setdefault(int(photo), set()).add(int(caption))
    assert all(len(captions) == 2 for captions in drawn.values())  # in turn
    again = epoch_batches(examples, np.arange(36), 12, 7, seed=0)
    assert all(np.array_equal(a.photos, b.photos) for a, b in zip(batches, again, strict=True))


def test_photos_of_a_few_captions_all_take_part_in_an_epoch(tmp_path: Path) -> None:
    """Forty photos of four people: batches can have four photos only, whatever size is wished."""
    for number in range(40):
        noise_photo(tmp_path / f"{number}.png", number)
    examples = many(tmp_path, [f"{number}.png,person {number % 4}" for number in range(40)])
    batches = epoch_batches(examples, np.arange(40), 32, 0, seed=0)
    assert sorted(np.concatenate([batch.photos for batch in batches])) == list(range(40))


def test_captions_that_differ_in_form_only_are_equal() -> None:
    assert normalise_caption("  A red\tBall. ") == normalise_caption("a red ball")
    assert normalise_caption("a red ball") != normalise_caption("a red box")
    assert normalise_caption("a cafe\u0301") == normalise_caption("A CAF\u00c9")


def test_mirroring_is_refused_where_words_would_become_untrue(tmp_path: Path) -> None:
    noise_photo(tmp_path / "0.png", 0)
    refuse_flips_of_sides(many(tmp_path, ["0.png,a bright ball"]))
    for words in ("a ball to the left", "a Sign of wood", "the word stop"):
        with pytest.raises(TrainingDataError, match="mirrored"):
            refuse_flips_of_sides(many(tmp_path, [f"0.png,{words}"]))
