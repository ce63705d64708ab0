"""How fast preprocessing, sample generation and evaluation are, and what memory the samples of the real size need.

Everything is made here: one simulated take for sound, words and masks, an empty tree of the size of the training
split for the samples, and short takes for the evaluation. Times are CPU seconds of this process and its children on
one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

from timing import cpu_seconds

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_json
from operating_room.graphs.graph_files import load_samples, save_samples
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.transcripts import audio_window
from operating_room_simulator.story.story import script_surgery

TAKE = mmor().find_take("001_PKA")
SIDE_BY_SIDE = 8  # takes that are evaluated in one batch
SEED = 7  # of these takes; the bundled model was trained on others
PROCESSES = 20  # clips that ffmpeg cuts, to know its time for one


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300, help="length of the simulated take")
    parser.add_argument("--size", default="640x480", help="of its pictures and masks, px")
    parser.add_argument("--timepoints", type=int, default=17_000, help="of the training split")
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--evaluated-seconds", type=int, default=40, help="length of each evaluated take")
    parser.add_argument("--only-evaluation", action="store_true", help="leave out preprocessing and samples")
    parser.add_argument("--ffmpeg", default=shutil.which("ffmpeg"), help="program to compare with")
    # Parts with a process of their own, to know their peak memory.
    parser.add_argument("--write-samples", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read-samples", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write_samples:
        write_training_samples(arguments.write_samples, arguments.permutations)
        return
    if arguments.read_samples:
        read_training_samples(arguments.read_samples)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        evaluation(root / "evaluation", arguments.evaluated_seconds)
        if arguments.only_evaluation:
            return
        preprocessing(root / "take", arguments.seconds, arguments.size, arguments.ffmpeg)
        empty_split(root / "split", arguments.timepoints)
        program = [sys.executable, __file__, "--permutations", str(arguments.permutations)]
        for part in ("--write-samples", "--read-samples"):
            subprocess.run([*program, part, str(root / "split")], check=True)


def preprocessing(root: Path, seconds: int, size: str, ffmpeg: str | None) -> None:
    """Clips, descriptors, words and masks of one take."""
    from scene_graph_generation.preprocess.audio import preprocess_audio
    from scene_graph_generation.preprocess.embeddings import mel_encoder, preprocess_audio_embeddings
    from scene_graph_generation.preprocess.masks import preprocess_masks
    from scene_graph_generation.preprocess.transcripts import preprocess_transcripts

    command = ["data", "synthesize", "--out", str(root), "--take", TAKE.name, "--seconds", str(seconds), "--size", size]
    subprocess.run(
        [sys.executable, "-m", "mmor.cli", *command, "--workers", "1"], check=True, stdout=subprocess.DEVNULL
    )
    dataset = Dataset(root)
    clip_s, clips = cpu_seconds(1, lambda: preprocess_audio(dataset, [TAKE]).require())
    report("audio clips", clips, clip_s, f"{clips / clip_s:.0f} clips/s, {seconds / clip_s:.0f} s of recording per s")
    if ffmpeg:
        each_s = ffmpeg_process(ffmpeg, dataset, root / "clip.mp3")
        ratio = each_s * clips / clip_s
        print(f"  one ffmpeg process per clip: {each_s * 1000:.1f} ms per clip; ours is {ratio:.0f} times faster")
    else:
        print("  no ffmpeg here: give --ffmpeg PROGRAM to compare")
    for name, step in (
        ("mel descriptors", lambda: preprocess_audio_embeddings(dataset, [TAKE], mel_encoder)),
        ("transcripts", lambda: preprocess_transcripts(dataset, [TAKE])),
        (f"small masks of {size} px", lambda: preprocess_masks(dataset, [TAKE], None, as_predictions=True)),
    ):
        cpu_s, count = cpu_seconds(1, lambda step=step: step().require())
        report(name, count, cpu_s, f"{count / cpu_s:.0f} files/s")


def ffmpeg_process(ffmpeg: str, dataset: Dataset, out: Path) -> float:
    """CPU seconds of what the published code runs for one clip."""
    recording = dataset.roots["MMOR"] / mmor().collection("MMOR").path("recording", TAKE)

    def cut() -> int:
        for second in range(1, PROCESSES + 1):
            start, duration = audio_window(second)
            window = ["-ss", str(start), "-t", str(duration)]
            command = [ffmpeg, "-y", "-loglevel", "error", *window, "-i", str(recording), "-acodec", "copy", str(out)]
            subprocess.run(command, check=True)
        return PROCESSES

    cpu_s, count = cpu_seconds(1, cut)
    return cpu_s / count


def empty_split(root: Path, timepoints: int) -> None:
    """The training split with empty pictures, clouds and sound, and with words, screens and graphs."""
    takes = mmor().split_takes("train")
    graphs = []
    for number, take in enumerate(takes):
        count = timepoints // len(takes) + (number < timepoints % len(takes))
        graphs += [
            Sample(take.sample_name, f"{moment.second:06d}", moment.triplets)
            for moment in script_surgery(take, 0, count).moments
        ]
        empty_take(root / mmor().collection(take).root, take, count)
    save_samples(root / "relationships_train.json", graphs)


def empty_take(root: Path, take: Take, count: int) -> None:
    """A take in which only what prompts tell has content."""
    index = [
        [f"{second:06d}", dict.fromkeys(mmor().collection(take).frame_keys, f"{second:06d}")] for second in range(count)
    ]
    write_json(root / mmor().collection(take).index_files(take)[0], index)
    tool = {"unique_id": "8000050", "button_state": 0, "Translation": [1.5, 2.5, 3.5], "euler_rot": [10.1, 20.2, 30.3]}
    if take.dataset == "MMOR":
        write_json(root / mmor().collection(take).path("tracks", take), [{"unique_id_dicts": [tool] * 3}] * count)
    content = {
        "transcript": json.dumps({"text": "could you hand me the saw please, and keep the leg still " * 3}),
        "robot_screen": json.dumps({str(n): {"type": "main", "template_name": "bone registration"} for n in range(6)}),
    }
    made: set[Path] = set()
    for timepoint in Dataset(root.parent).take(take).expected:
        for name, _, path in timepoint.files_by_camera():
            if name not in ("label_masks", "annotation"):
                if path.parent not in made:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    made.add(path.parent)
                path.write_text(content.get(name, ""))


def evaluation(root: Path, seconds: int) -> None:
    """The bundled model with memory on takes side by side, and one take after the other."""
    import torch

    from mmor.demo import BUNDLED, GRAPHS, prepare
    from operating_room_simulator.writer import synthesize
    from scene_graph_generation.inference.infer import SceneGraphGenerator, answers_path, infer
    from scene_graph_generation.weights.checkpoints import load_model

    torch.set_num_threads(1)
    takes = [*mmor().split_takes("test"), *mmor().split_takes("val")][:SIDE_BY_SIDE]
    synthesize(root, takes, seconds, SEED)
    prepare(root, takes, None)
    generator = SceneGraphGenerator(*load_model(BUNDLED / GRAPHS))
    # What only the first question costs.
    generator.answer([generator.read(Dataset(root).take(takes[0]).timepoints[0], None)])
    frames = dict.fromkeys(takes)
    rates, texts = [], []
    for name, size in (("one take after the other", 1), (f"{len(takes)} takes side by side", SIDE_BY_SIDE)):
        out = root / f"{size}.json"
        cpu_s, count = cpu_seconds(
            1, lambda out=out, size=size: len(infer(generator, Dataset(root), frames, out, batch_size=size))
        )
        report(name, count, cpu_s, f"{count / cpu_s:.2f} timepoints/s")
        rates.append(count / cpu_s)
        texts.append(sorted(json.loads(line)[::2] for line in answers_path(out).read_text().splitlines()[1:]))
    if texts[0] != texts[1]:
        raise SystemExit(f"{sum(a != b for a, b in zip(*texts))} of {len(texts[0])} texts differ")
    print(f"  the same texts; side by side is {rates[1] / rates[0]:.2f} times as fast")


def write_training_samples(root: Path, permutations: int) -> None:
    """Training samples of a split with memory and mixed modalities."""
    from scene_graph_generation.samples.records import SampleOptions, training_records
    from scene_graph_generation.samples.sample_files import write_samples

    graphs = load_samples(root / "relationships_train.json")
    options = SampleOptions(permutations=permutations, temporal=True, mixed=True)
    path = root / options.file_name("train")
    records = training_records(Dataset(root), graphs, options, Random(0))
    cpu_s, count = cpu_seconds(1, write_samples, path, records, len(graphs) * permutations, Random(1))
    megabytes = path.stat().st_size / 1e6
    detail = f"{count / cpu_s:.0f} samples/s, {megabytes:.0f} MB of JSON, peak memory {peak():.0f} MB"
    report(f"samples of {len(graphs)} timepoints", count, cpu_s, detail)


def read_training_samples(root: Path) -> None:
    """The same samples as training reads them: each once in order, then some in random order."""
    from scene_graph_generation.samples.training_data import read_records, record_text

    (path,) = root.glob("train_*perm_*.json")
    before = peak()
    records = read_records(path)
    cpu_s, count = cpu_seconds(1, lambda: sum(1 for record in records if record_text(record)))
    report("reading them in order", count, cpu_s, f"{count / cpu_s:.0f} samples/s")
    places = [Random(0).randrange(len(records)) for _ in range(5000)]
    cpu_s, count = cpu_seconds(1, lambda: sum(1 for place in places if records[place]["id"]))
    detail = f"{count / cpu_s:.0f} samples/s; peak memory {peak():.0f} MB, {before:.0f} of them before"
    report("reading them in random order", count, cpu_s, detail)


def peak() -> float:
    """Largest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(name: str, count: int, cpu_s: float, detail: str) -> None:
    """Print one line."""
    print(f"{name}: {count} in {cpu_s:.2f} CPU s, {detail}", flush=True)


if __name__ == "__main__":
    main()
