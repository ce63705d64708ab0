"""What must be there, and fit, before a training begins: settings, domain, tools, files of samples and of a base."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from computing.machine import choose_device, half_dtype
from computing.tracking import check_wandb
from operating_room.domain.domain import Domain
from operating_room.domain.stored import DOMAIN_FILE, require_domain
from operating_room.errors import UserError, failing
from operating_room.work.progress import track
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.settings import Experiment, StartConfig
from scene_graph_generation.inputs.evidence import Evidence
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.records import Records
from scene_graph_generation.training.deepspeed_settings import deepspeed_settings, require_its_gpu, require_operators
from scene_graph_generation.training.loss import read_frequencies
from scene_graph_generation.weights.base_models import weight_files
from scene_graph_generation.weights.checkpoints import WEIGHTS, check_vocabulary
from scene_graph_generation.weights.fine_tuned import trained_files

NO_PRESENCE = "train.presence is for a model from scratch, with a language model of the published kind; leave it out"


def check_start(experiment: Experiment) -> None:
    """What is asked for must be there to be done: a base has bits, adapters and a vision tower, nothing has not.

    Raises:
        UserError: the settings contradict each other.
    """
    start = experiment.start
    needs_base = {
        "--bits 4": start.bits == 4,
        "--lora_enable True": start.lora is not None,
        "--vision_tower": start.vision is not None,
        "--unfreeze_n_vision_tower_layers": start.vision_layers > 0,
    }
    if start.base is None and (idle := [option for option, given in needs_base.items() if given]):
        raise UserError(f"{idle[0]} is for a base, and none is given; add --model_name_or_path or leave it out")
    if start.base is not None and start.lora is None and start.bits == 4:
        raise UserError("weights of 4 bits cannot be trained themselves; add --lora_enable True or choose --bits 16")
    if start.base is not None and start.lora is None and start.curriculum is not None:
        told = "a first stage that is put on a base is an adapter (--lora_enable True)"
        raise UserError(f"{told}; one that was trained whole has all of its base in it: leave --model_name_or_path out")
    if start.base is not None and start.vision is None and start.vision_layers:
        raise UserError("--unfreeze_n_vision_tower_layers needs --vision_tower, whose layers they are")
    if start.curriculum_order == "published" and (start.base is None or start.curriculum is None):
        told = "--curriculum_order published is of a first stage around a base"
        raise UserError(f"{told}: give --curriculum_learning_weights and --model_name_or_path, or leave it out")
    train, phases = experiment.train, experiment.pretrain
    if train.matrix_learning_rate is not None and (start.base is not None or train.deepspeed is not None):
        told = "train.matrix_learning_rate is for whole matrices: of a model from scratch, without DeepSpeed"
        raise UserError(f"{told}; leave it out")
    if train.projector_learning_rate is not None and (train.visual_learning_rate or train.matrix_learning_rate):
        told = "train.projector_learning_rate would be ignored beside visual_learning_rate and matrix_learning_rate"
        raise UserError(f"{told}; leave it or them out")
    if experiment.files.token_frequencies is not None and not train.token_weights:
        told = "files.token_frequencies says how much a token counts, and train.token_weights that all count the same"
        raise UserError(f"{told}; leave one of them out")
    if train.presence and (start.base is not None or isinstance(experiment.model.language, OtherLanguage)):
        raise UserError(NO_PRESENCE)
    if train.vision_rests and start.base is not None:
        told = "train.vision_rests is for a model from scratch"
        raise UserError(f"{told}; of a base --unfreeze_n_vision_tower_layers says what is trained")
    if train.vision_rests and start.curriculum is None and not (phases and phases.patch_steps):
        told = "train.vision_rests needs a vision tower that was taught"
        raise UserError(f"{told}; give `pretrain` patch_steps, or leave it out")
    if experiment.pretrain is not None and start.base is not None and start.vision is None:
        raise UserError("`pretrain` teaches a vision tower to see, and none is given; add --vision_tower")


def check_start_domain(start: StartConfig, domain: Domain) -> None:
    """The first stage of a curriculum was trained for a domain; a base only if it says so.

    Raises:
        UserError: it was another one than that of the takes.
    """
    if start.curriculum is not None:
        require_domain(start.curriculum, domain)
    if start.base is not None and (Path(start.base) / DOMAIN_FILE).is_file():
        require_domain(Path(start.base), domain)


def check_text_only(pictured: str | None, experiment: Experiment) -> None:
    """A base without vision tower, or a model from scratch without modalities, is trained on text alone.

    Args:
        pictured: id of the first sample whose text has a place for pictures, if there is one.
        experiment: its model, and what it starts from.

    Raises:
        UserError: it is, and there is such a sample.
    """
    start = experiment.start
    blind, mend = not experiment.model.modalities, "give samples of `mmor downstream samples`, or a model of modalities"
    if start.base is not None:
        blind, mend = start.vision is None, "add --vision_tower"
    if blind and pictured is not None:
        raise UserError(f"sample {pictured} has pictures, which a text-only training cannot see; {mend}")


def check_tools(experiment: Experiment) -> None:
    """What the settings ask for must be installed.

    Raises:
        UserError: it is not.
    """
    if missing := missing_tools(experiment):
        raise UserError("; ".join(missing))


def missing_tools(experiment: Experiment) -> list[str]:
    """A line for each tool or setting of a tool that is not there."""
    missing = []
    deepspeed = experiment.train.deepspeed
    wanted = {
        "deepspeed": deepspeed and f"--deepspeed {deepspeed}, or leave the option out",
        "bitsandbytes": experiment.start.base and experiment.start.bits == 4 and "--bits 4, or take --bits 16",
    }
    for tool, option in wanted.items():
        if option and find_spec(tool) is None:
            extra = "quant" if tool == "bitsandbytes" else tool
            missing.append(f'{tool} is not installed: pip install "mmor[{extra}]" for {option}')
    config = experiment.train
    checks: list[Callable[[], object]] = []
    if config.report_to == "wandb":
        checks.append(lambda: check_wandb("--report_to wandb"))
    if config.bf16:  # a GPU that has none would be told once all is loaded
        checks.append(lambda: half_dtype(choose_device(), "bfloat16"))
    if deepspeed is not None:
        checks += [lambda: _read_deepspeed(deepspeed, config.bf16), require_operators, require_its_gpu]
    return missing + failing(*checks)


def _read_deepspeed(path: Path, bf16: bool) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such DeepSpeed configuration; take configs/deepspeed/zero2.json")
    deepspeed_settings(path, bf16, 1)


def missing_files(records: Records, root: Path) -> list[str]:
    """One line per kind of file that is missing, and one for records that name none properly."""
    missing: dict[str, set[Path]] = {}
    known: dict[Path, bool] = {}
    problems = []
    for record in track(records, "looking for the files of the samples", len(records)):
        try:
            evidence = Evidence.of_record(record, root)
        except UserError as error:
            problems.append(f"sample {record['id']}: {error}")
            continue
        for kind, paths in {"views": evidence.views, **evidence.others}.items():
            for path in paths:
                if path is not None and path not in known:
                    known[path] = _is_file(path)
                    if not known[path]:
                        missing.setdefault(kind, set()).add(path)
    odd = problems[:1] + ([f"and {len(problems) - 1} more such samples"] if len(problems) > 1 else [])
    return odd + [f"{min(paths)}: missing, as are {len(paths) - 1} more of {kind}" for kind, paths in missing.items()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def missing_inputs(experiment: Experiment, model: MM2SG) -> list[str]:
    """What is not there, or does not fit, of everything but samples."""
    counts = experiment.files.token_frequencies
    makers = {
        counts: "`mmor scene-graph samples --tokenizer MODEL` makes it",
        experiment.start.curriculum: "it is the output folder of the training before this one",
    }
    problems = [f"{path}: is not there; {maker}" for path, maker in makers.items() if path and not path.exists()]
    start = experiment.start
    folders = [Path(name) for name in (start.base, start.vision) if name and Path(name).is_dir()]  # others are fetched
    problems += [line for folder in folders if (line := lacking(folder)) is not None]
    problems += failing(partial(_check_first_stage, start), partial(_check_tokens, experiment, model))
    return problems + missing_tools(experiment)


def _check_first_stage(start: StartConfig) -> None:
    """The folder of a first stage, if it is there, must be whole."""
    first = start.curriculum
    if first is not None and first.exists() and (start.base is not None or not (first / WEIGHTS).is_file()):
        trained_files(first)


def _check_tokens(experiment: Experiment, model: MM2SG) -> None:
    """The tokenizer of a base that is here must fit the model, and the token frequencies the tokenizer."""
    base, counts = Path(experiment.start.base or ""), experiment.files.token_frequencies
    if experiment.start.base is None or not base.is_dir():
        return
    tokens = read_tokens(base)
    check_vocabulary(tokens, model, base)
    if counts is not None and counts.exists() and experiment.train.token_weights:
        read_frequencies(counts, tokens.names())


def lacking(folder: Path) -> str | None:
    """What the folder of a base lacks of its weights, of which nothing is read."""
    try:
        missing = [path for path in weight_files(folder) if not path.is_file()]
    except UserError as error:
        return str(error)
    return f"{missing[0]}: is missing, as are {len(missing) - 1} more weight files of it" if missing else None


def output_folder(experiment: Experiment) -> Path:
    """Where the experiment's training goes.

    Raises:
        UserError: the experiment names no output folder or no samples.
    """
    files = experiment.files
    if not files.samples or files.out is None:
        raise UserError("a training needs samples (--samples or --data_path) and a folder (--out or --output_dir)")
    return files.out
