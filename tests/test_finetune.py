"""Whole runs of fine-tuning on a tiny model: what they leave, and what they refuse."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import TINY, tiny_config, tiny_model, tiny_pairs

from clipsearch.errors import (
    ClipsearchError,
    ModelError,
    StorageError,
    TrainingDataError,
    UsageError,
)
from clipsearch.models.config import CONFIG_NAME, WEIGHTS_NAME
from clipsearch.models.fingerprints import fingerprints
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.models.words import unknown_words, write_words
from clipsearch.photos.decode import digest_photo
from clipsearch.train import Settings, TrainingProgress, TrainingReport, finetune
from clipsearch.train.inputs import load_examples, split_photos
from clipsearch.train.metrics import retrieval_metrics
from clipsearch.train.pairs import read_pairs
from clipsearch.train.prompts import GENERAL_PROMPTS, GENERAL_SENTENCES
from clipsearch.train.report import Comparison, Vectors, judge, standard_error
from clipsearch.train.run import _album
from clipsearch.train.states import BEST, LAST, read_metrics
from clipsearch.train.taught import taught_photos
from clipsearch.train.towers import load_towers

FAST = Settings(
    method="full",
    epochs=6,
    batch_size=24,
    micro_batch=12,
    learning_rate=3e-3,
    patience=9,
    anchor=0,
)


def changed(**changes: object) -> Settings:
    return Settings(**(FAST.as_dict() | changes))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pairs(tmp_path_factory.mktemp("pairs"), 96)


def run(pairs: Path, output: Path, base: Path, settings: Settings = FAST, **more: object):
    report = finetune(pairs, output=output, model=base, settings=settings, device="cpu", **more)
    assert isinstance(report, TrainingReport)
    return report


def test_a_run_learns_reports_and_leaves_a_model(base: Path, pairs: Path, tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    said: list[str] = []
    report = run(pairs, tmp_path / "run", base, progress=seen.append, say=said.append)

    assert report.promoted, report.verdict
    assert report.test.tuned.text_to_image.recall[10] > report.test.base.text_to_image.recall[10]
    assert report.test.base.text_to_image.pool == report.photos["test"] == 19
    assert [step.step for step in seen] == list(range(1, seen[-1].steps + 1))
    assert seen[-1].recall is not None
    assert seen[-1].seconds_left == pytest.approx(0, abs=1e-6)
    assert "96 photos with 96 captions" in said[0]
    assert any("chose nothing" in line for line in report.notes())
    assert len(report.rows()) == 8

    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["identity"]["base"]["image"] == fingerprints(base).image
    assert record["identity"]["batch_size"] == 24
    assert record["versions"]["torch"] == torch.__version__
    assert record["test"]["tuned"]["text_to_image"]["recall"].keys() == {"1", "5", "10"}
    lines = read_metrics(tmp_path / "run")
    assert {line["kind"] for line in lines} == {"step", "epoch"}
    recalls = [line["mean_recall"] for line in lines if line["kind"] == "epoch"]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("epoch/mean_recall")] == pytest.approx(recalls)
    with Image.open(tmp_path / "run" / "curves.png") as curves:
        assert curves.size == (1120, 340)
    # The saved model is the one that was judged.
    towers = load_towers(tmp_path / "run", device="cpu")
    assert math.exp(towers.model.logit_scale.detach()) <= 100


def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    settings = changed(epochs=2)
    for name in ("one", "two"):
        run(pairs, tmp_path / name, base, settings)
    one, two = (load_file(tmp_path / name / "state" / LAST) for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    run(pairs, tmp_path / "three", base, changed(epochs=2, seed=1))
    three = load_file(tmp_path / "three" / "state" / LAST)
    assert not torch.equal(one["model.logit_scale"], three["model.logit_scale"])


def test_shuffled_captions_do_not_count_as_better(base: Path, pairs: Path, tmp_path: Path) -> None:
    rows = [line.split(",") for line in pairs.read_text().splitlines()[1:]]
    words = [row[1] for row in rows]
    np.random.default_rng(3).shuffle(words)
    shuffled = pairs.with_name("shuffled.csv")
    lines = [f"{row[0]},{caption}" for row, caption in zip(rows, words, strict=True)]
    shuffled.write_text("filepath,caption\n" + "\n".join(lines))
    report = run(shuffled, tmp_path / "run", base)
    assert not report.promoted
    assert "saved" in report.verdict


def test_a_run_adds_the_words_it_taught_to_the_bases_list(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    listed = shutil.copytree(base, tmp_path / "base")
    write_words(listed, ["ball"])
    taught = run(pairs, tmp_path / "run", listed).output
    assert unknown_words(taught, "a purple cross, a yellow ball, a glurk") == ["glurk"]
    nothing = run(pairs, tmp_path / "same", listed, changed(epochs=1, learning_rate=0.0))
    assert nothing.alpha == 0
    assert unknown_words(nothing.output, "a purple ball") == ["purple"]


def test_captions_that_cannot_be_read_are_warned_of(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = sorted(tiny_pairs(tmp_path / "mine", 12).parent.glob("*.png"))
    for photo in photos:
        photo.with_suffix(".txt").write_text(f"picture {photo.stem}")
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "000.txt":
            raise PermissionError
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    warnings: list[str] = []
    once = changed(epochs=1, validation=2, test=2)
    report = run(None, tmp_path / "run", base, once, library_photos=photos,
                 warn=lambda message, hint: warnings.append(message))  # fmt: skip
    assert sum(report.photos.values()) == 11
    (line,) = warnings
    assert line.endswith(f"cannot be read, the first: {photos[0].with_suffix('.txt')}")


def test_a_run_lists_the_photos_that_its_model_learned_from(base: Path, tmp_path: Path) -> None:
    mine = tiny_pairs(tmp_path / "mine", 24)
    first = run(mine, tmp_path / "first", base, changed(epochs=1, wise_ft=False))
    judged = set(map(digest_photo, mine.parent.glob("*.png"))) - taught_photos(first.output)
    assert len(judged) == first.photos["test"] == 5
    told: list[str] = []
    run(mine, tmp_path / "again", first.output, changed(epochs=1, seed=1),
        warn=lambda message, hint: told.append(message))  # fmt: skip
    assert re.fullmatch(
        "the base model was taught with [1-5] of the 5 photos that judge.*", told[0]
    )
    other = tiny_pairs(tmp_path / "other", 24, seed=5)
    nothing = run(other, tmp_path / "same", first.output, changed(epochs=1, learning_rate=0.0))
    assert nothing.alpha == 0
    assert taught_photos(nothing.output) == taught_photos(first.output)
    second = run(other, tmp_path / "second", first.output, changed(epochs=1, wise_ft=False))
    assert taught_photos(second.output) > taught_photos(first.output)
    assert len(taught_photos(second.output)) == 2 * (24 - 5)


def test_a_text_run_keeps_the_image_fingerprint(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = run(pairs, tmp_path / "run", base, changed(method="auto", epochs=3))
    assert report.method == "text"
    assert "without a GPU" in report.reason
    assert report.keeps_image_vectors
    before, after = fingerprints(base), fingerprints(tmp_path / "run")
    assert before.image == after.image
    assert before.text != after.text


def test_a_tokens_run_moves_only_the_captions_tokens(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    settings = changed(method="tokens", epochs=3, learning_rate=None, wise_ft=False)
    report = run(pairs, tmp_path / "run", base, settings)
    assert report.keeps_image_vectors
    before, after = (load_file(folder / WEIGHTS_NAME) for folder in (base, tmp_path / "run"))
    changes = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changes == {"token_embedding.weight", "logit_scale"}
    moved = (after["token_embedding.weight"] != before["token_embedding.weight"]).any(dim=1)
    towers = load_towers(base, device="cpu")
    lines = pairs.read_text().splitlines()[1:]
    tokens, _ = towers.tokenise([line.split(",")[1] for line in lines])
    assert moved.any()
    assert set(np.flatnonzero(moved.numpy())) <= set(np.unique(tokens))


def test_a_projection_run_changes_no_trunk(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = run(
        pairs, tmp_path / "run", base, changed(method="projection", epochs=4, wise_ft=False)
    )
    assert not report.keeps_image_vectors
    before, after = (load_file(folder / WEIGHTS_NAME) for folder in (base, tmp_path / "run"))
    changes = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changes == {"visual.proj", "text_projection", "logit_scale"}
    # What was judged on cached features is what the saved model does with the photos.
    towers = load_towers(tmp_path / "run", device="cpu")
    described = read_pairs(pairs)
    examples = load_examples(described, towers.preprocess, towers.tokenise)
    test = split_photos(examples, validation=0.1, test=0.2, seed=0).test
    captions, owners = examples.captions_of(test)
    images = towers.embed_pixels(examples.pixels[test])
    texts = towers.embed_tokens(examples.tokens[captions])
    found = retrieval_metrics(images, texts, owners)
    assert found.text_to_image.recall == report.test.tuned.text_to_image.recall


def test_wise_ft_heeds_the_guard(base: Path, pairs: Path, tmp_path: Path) -> None:
    """A model that knows the guard pairs may not forget them for pairs that say the opposite."""
    knowing = run(pairs, tmp_path / "knowing", base, changed(epochs=10))
    assert knowing.promoted
    rows = [line.split(",") for line in pairs.read_text().splitlines()[1:]]
    turned = pairs.with_name("turned.csv")
    turned.write_text(
        "filepath,caption\n"
        + "\n".join(f"{a[0]},{b[1]}" for a, b in zip(rows, rows[7:] + rows[:7], strict=True))
    )
    settings = changed(epochs=10, guard_points=0.0)
    told: list[str] = []
    report = run(
        turned,
        tmp_path / "run",
        tmp_path / "knowing",
        settings,
        guard=pairs,
        warn=lambda message, hint: told.append(message),
    )
    assert report.guard is not None
    learned = f"{report.photos['train']} of the 96 guard photos are learned from as well"
    assert [message for message in told if message.startswith(learned)]
    unguarded = run(turned, tmp_path / "free", tmp_path / "knowing", settings)
    assert report.alpha < unguarded.alpha
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    tried = record["alphas"]
    assert tried["1"]["guard_points_lost"] > 0
    if report.alpha:
        kept = tried[f"{report.alpha:g}"]
        assert kept["guard_points_lost"] + kept["guard_error"] <= 0


def test_one_guard_photo_is_too_few(base: Path, pairs: Path, tmp_path: Path) -> None:
    guard = pairs.with_name("guard.csv")
    guard.write_text("\n".join(pairs.read_text().splitlines()[:2]))
    with pytest.raises(TrainingDataError, match="one photo only"):
        run(pairs, tmp_path / "run", base, guard=guard)


def test_hits_and_reciprocal_ranks_are_those_of_each_photos_captions() -> None:
    images = np.eye(3, dtype=np.float32)
    said = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 1, 0.5], [0, 0.5, 1]], dtype=np.float32)
    vectors = Vectors(images, said, np.array([0, 0, 1, 2]))
    assert vectors.hits(1).tolist() == [0.5, 1, 1]
    assert vectors.hits(2).tolist() == [1, 1, 1]
    assert vectors.reciprocal_ranks().tolist() == [0.75, 1, 1]
    assert standard_error(vectors.hits(1)) == pytest.approx(1 / 6)
    assert standard_error(vectors.hits(1)[:1]) == 0


def test_drift_is_measured_on_the_librarys_photos(base: Path, pairs: Path, tmp_path: Path) -> None:
    photos = pairs.parent.glob("*.png")
    report = run(pairs, tmp_path / "run", base, changed(epochs=2), library_photos=photos)
    assert report.drift is not None
    assert report.drift.prompts == 200
    assert report.drift.photos == 96
    assert 0 <= report.drift.overlap < 1
    assert report.drift.image_cosine < 1


def test_drift_is_measured_all_over_the_library(
    base: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.train.run._DRIFT_PHOTOS", 4)
    towers, photos = load_towers(base, device="cpu"), sorted(pairs.parent.glob("*.png"))
    four, sixth = _album(photos[:7], towers), _album(photos[5:6], towers)
    assert len(four) == 4
    assert np.array_equal(four[-1], sixth[0])  # and not the fourth of seven


def test_an_anchor_holds_words_that_the_pairs_never_use(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    """Measured on other sentences than the held ones; the pairs are learned all the same."""
    kept = {}
    for anchor in (0.0, 100.0):
        settings = changed(method="text", anchor=anchor, wise_ft=False)
        photos = pairs.parent.glob("*.png")
        report = run(pairs, tmp_path / f"{anchor}", base, settings, library_photos=photos)
        assert report.drift is not None
        assert report.test.gain > 0
        kept[anchor] = report.drift.text_cosine
    assert kept[100.0] > 0.5 + 0.5 * kept[0.0]  # at least half of the drift is gone


def test_the_searches_that_measure_forgetting_are_not_held() -> None:
    assert len(set(GENERAL_PROMPTS)) == 200
    assert len(set(GENERAL_SENTENCES)) == len(GENERAL_SENTENCES) > 10_000
    assert not set(GENERAL_PROMPTS) & set(GENERAL_SENTENCES)


def test_from_scratch_starts_at_the_published_temperature(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    seen: list[TrainingProgress] = []
    report = finetune(
        pairs,
        output=tmp_path / "run",
        from_scratch=str(config),
        settings=changed(method="auto", epochs=6),
        device="cpu",
        progress=seen.append,
    )
    assert report is not None
    assert seen[0].temperature == pytest.approx(0.07, rel=0.01)
    assert report.alpha == 1
    load_towers(tmp_path / "run", device="cpu")


def test_captions_are_seen_to_be_cut_whatever_their_letters(base: Path) -> None:
    towers = load_towers(base, device="cpu")  # of 16 tokens
    captions = ["狗在草地上奔跑", "a red ball", "a " * 15, "a " * 14]
    tokens, cut = towers.tokenise(captions)
    assert cut == [0, 2]
    assert [int(row[-1]) != 0 for row in tokens] == [True, False, True, True]


def test_epochs_in_which_all_photos_have_the_same_caption_teach_nothing(
    base: Path, tmp_path: Path
) -> None:
    table = tiny_pairs(tmp_path / "mine", 24)
    rows = "".join(f"{number:03}.png,a photo\n" for number in range(24))
    table.write_text(f"filepath,caption\n{rows}003.png,a dog\n")
    settings = changed(validation=2, test=2, epochs=3)  # 003's other caption comes in the second
    report = run(table, tmp_path / "run", base, settings)
    assert report.steps == 1
    with pytest.raises(TrainingDataError, match="in no epoch"):
        run(table, tmp_path / "none", base, changed(validation=2, test=2, epochs=1))


def test_ema_and_early_stopping(base: Path, pairs: Path, tmp_path: Path) -> None:
    settings = changed(epochs=30, ema=0.5, patience=2, learning_rate=0.0)
    report = run(pairs, tmp_path / "run", base, settings)
    assert "did not rise for 2 epochs" in report.stopped
    assert report.alpha == 0
    assert not report.promoted
    weights, mine = (load_file(folder / WEIGHTS_NAME) for folder in (base, tmp_path / "run"))
    assert all(torch.equal(value, mine[name]) for name, value in weights.items())


def test_a_loss_that_is_no_number_stops_with_the_last_good_state(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    settings = changed(learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(ClipsearchError, match="no number any more") as caught:
        run(pairs, tmp_path / "run", base, settings)
    assert "--learning-rate" in (caught.value.hint or "")
    assert (tmp_path / "run" / "state" / LAST).exists()


def test_a_finished_or_unfinished_run_is_never_overwritten(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    run(pairs, tmp_path / "run", base, changed(epochs=1))
    record = tmp_path / "run" / "training.json"
    for promoted in (True, False):
        record.write_text(json.dumps({**json.loads(record.read_text()), "promoted": promoted}))
        with pytest.raises(UsageError, match="finished run") as caught:
            run(pairs, tmp_path / "run", base)
        hint = caught.value.hint or ""
        assert (f"`clipsearch index --model {tmp_path / 'run'}`" in hint) == promoted
        assert ("did not help" in str(caught.value)) != promoted
        assert "`--output`" in hint
    record.unlink()
    with pytest.raises(UsageError, match="not finished"):
        run(pairs, tmp_path / "run", base)
    with pytest.raises(UsageError, match="batch_size: 24 there, 12 here"):
        run(pairs, tmp_path / "run", base, changed(epochs=1, batch_size=12), resume=True)
    with pytest.raises(UsageError, match="is a model directory"):
        run(pairs, base, base)


def test_two_runs_never_write_into_one_folder(base: Path, pairs: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def begin_another(step: TrainingProgress) -> None:
        if step.step == 1:
            for resume in (False, True):
                with pytest.raises(UsageError, match="another run is writing to") as caught:
                    run(pairs, tmp_path / "run", base, changed(epochs=1), resume=resume)
                refused.append(str(caught.value))

    report = run(pairs, tmp_path / "run", base, changed(epochs=1), progress=begin_another)
    assert len(refused) == 2
    assert f"pid {os.getpid()}" in refused[0]
    assert report.steps == len([m for m in read_metrics(report.output) if m["kind"] == "step"])


def test_a_run_that_was_overtaken_writes_nothing(base: Path, pairs: Path, tmp_path: Path) -> None:
    def finish_another(text: str) -> None:
        if not text.startswith("method") and not (tmp_path / "run").exists():
            run(pairs, tmp_path / "run", base, changed(epochs=1))

    with pytest.raises(UsageError, match="finished run"):
        run(pairs, tmp_path / "run", base, say=finish_another)


def test_a_damaged_state_is_not_resumed(base: Path, pairs: Path, tmp_path: Path) -> None:
    run(pairs, tmp_path / "run", base, changed(epochs=1))
    (tmp_path / "run" / "training.json").unlink()
    state = tmp_path / "run" / "state" / LAST
    for content in (state.read_bytes()[:1000], state.with_name(BEST).read_bytes()):
        state.write_bytes(content)
        with pytest.raises(ModelError, match="is damaged"):
            run(pairs, tmp_path / "run", base, changed(epochs=1), resume=True)


def test_a_full_disk_is_one_plain_message_and_leaves_no_half_file(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # weights need more
    try:
        with pytest.raises(StorageError, match="cannot be written") as caught:
            run(pairs, tmp_path / "run", base, changed(epochs=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "--output" in (caught.value.hint or "")
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_wishes_that_cannot_be_met(base: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cuda"):
        finetune(pairs, output=tmp_path / "a", model=base, device="cuda")
    with pytest.raises(ModelError, match="no logit_bias"):
        run(pairs, tmp_path / "b", base, changed(loss="siglip"))
    with pytest.raises(UsageError, match="--batch-size must be at least 2"):
        changed(batch_size=1)
    with pytest.raises(UsageError, match="--seed must be from 0"):
        changed(seed=-1)
    with pytest.raises(UsageError, match="trains no blocks"):
        changed(method="projection", unlock_last=5)
    with pytest.raises(UsageError, match="no such method"):
        changed(method="magic")
    with pytest.raises(UsageError, match="no such direction"):
        changed(direction="sideways")
    with pytest.raises(ModelError, match="normalises over the batch"):
        finetune(pairs, output=tmp_path / "c", from_scratch="RN50", settings=FAST, device="cpu")
    output = str(tmp_path / "d")  # text will do
    with pytest.raises(ModelError, match="no architecture"):
        finetune(pairs, output=output, from_scratch="ViT-X", settings=FAST, device="cpu")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody may write to")
def test_an_output_that_cannot_be_written_is_found_before_the_photos_are_read(
    base: Path, tmp_path: Path
) -> None:
    for output in (Path("/proc/x"), Path("/proc/x/run")):
        with pytest.raises(StorageError, match="cannot be written") as caught:
            run(tmp_path / "no-pairs.csv", output, base)
        assert "--output" in (caught.value.hint or "")


def test_a_siglip_model_is_tuned_with_its_own_loss(pairs: Path, tmp_path: Path) -> None:
    siglip = tiny_model(tmp_path, init_logit_scale=math.log(10), init_logit_bias=-10.0)
    report = run(pairs, tmp_path / "run", siglip, changed(epochs=2))
    before, after = (load_file(folder / WEIGHTS_NAME) for folder in (siglip, report.output))
    assert report.alpha == 0 or after["logit_bias"] != before["logit_bias"]
    losses = [line["loss"] for line in read_metrics(report.output) if line["kind"] == "step"]
    assert losses[-1] < losses[0]


def test_a_captioning_model_is_refused(pairs: Path, tmp_path: Path) -> None:
    """CoCa learns to write captions too; the contrastive loss alone would spoil that half."""
    text = TINY["text_cfg"] | {"embed_cls": True, "output_tokens": True}
    vision = TINY["vision_cfg"] | {"attentional_pool": True, "output_tokens": True}
    parts = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text,
             "multimodal_cfg": text | {"attn_pooler_heads": 2}}  # fmt: skip
    model = import_open_clip().CoCa(**parts)
    folder = tmp_path / "coca"
    folder.mkdir()
    (folder / CONFIG_NAME).write_text(json.dumps({"model_cfg": parts, "preprocess_cfg": {}}))
    save_file({n: v.clone() for n, v in model.state_dict().items()}, folder / WEIGHTS_NAME)
    with pytest.raises(ModelError, match="contrastive loss alone"):
        run(pairs, tmp_path / "run", folder)


def test_flips_are_refused_where_captions_speak_of_sides(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    text = pairs.read_text().replace("a red ball number 0", "a red ball on the left")
    told = pairs.with_name("sides.csv")
    told.write_text(text)
    with pytest.raises(TrainingDataError, match="'left'"):
        run(told, tmp_path / "run", base, changed(flip=True))


def test_best_state_is_kept_beside_the_last(base: Path, pairs: Path, tmp_path: Path) -> None:
    run(pairs, tmp_path / "run", base, changed(epochs=2))
    assert {path.name for path in (tmp_path / "run" / "state").iterdir()} == {LAST, BEST}
    shutil.rmtree(tmp_path / "run" / "state")


@pytest.mark.parametrize("photos", [1, 2, 4, 5])
def test_a_few_photos_cannot_say_that_a_model_is_better(photos: int) -> None:
    """Their gains may well be equal, which looks as if they were sure."""
    images, owners = np.eye(photos + 1, dtype=np.float32)[:photos], np.arange(photos)
    good, bad = images.copy(), np.roll(np.eye(photos + 1, dtype=np.float32), 1, axis=1)[:photos]
    test = Comparison.of(Vectors(images, 0.1 * good + bad, owners), Vectors(images, good, owners))
    promoted, verdict = judge(test, None, 1.0, 1.0)
    assert promoted == (photos == 5)
    assert ("cannot judge" in verdict) == (photos < 5)
