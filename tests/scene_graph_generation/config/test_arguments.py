"""The options of the published training commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from computing.experiments import CONFIGS
from operating_room.errors import UserError
from scene_graph_generation.config.published_options import ZERO2, read_options
from scene_graph_generation.config.settings import Experiment, FilesConfig, LoraConfig, PretrainConfig, read_experiment

MODALITIES = "AZURE_SIMSTATION_TRACKERCAM_PC_AUDIO_SPEECH_ROBOTMETA_TRACKINGMETA_PREDSEGMASKS"
OUT = f"./checkpoints/llava-v1.5-7b-task-lora_hybridor_qlora_20perm_{MODALITIES}_0.50drop_MIXED"
COMMON = """--lora_enable True --bits 4 --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5
    --deepspeed ./scripts/zero2.json --model_name_or_path liuhaotian/llava-v1.5-7b --version v1 --image_folder /
    --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 --mm_use_im_start_end False
    --mm_use_im_patch_token False --image_aspect_ratio pad --group_by_modality_length True --bf16 True --tf32 True
    --num_train_epochs 1 --evaluation_strategy no --save_strategy steps --save_steps 500 --learning_rate 2e-5
    --max_grad_norm 0.1 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 --lazy_preprocess True
    --report_to wandb --mv_type learned """
VISUAL = """--vision_tower openai/clip-vit-large-patch14-336 --unfreeze_n_vision_tower_layers 12
    --do_img_order_augment --do_multimodal_augment --multimodal_drop_prop 0.50 --do_augment False
    --token_weight_path ../data/llava_samples/train_token_freqs_7b_50perm.json
    --per_device_train_batch_size 4 --per_device_eval_batch_size 4 --gradient_accumulation_steps 4 """
SAMPLES = f"../data/llava_samples/train_20perm_%stemp_Truetempaug_{MODALITIES}_drophistory0.5_MIXED.json"
BASE = f"{COMMON}{VISUAL} --data_path {SAMPLES % False} --output_dir {OUT} --run_name {OUT}"
TEMPORAL = f"""{COMMON}{VISUAL} --data_path {SAMPLES % True} --output_dir {OUT}_temporal_curriculum
    --run_name {OUT}_temporal_curriculum --curriculum_learning_weights {OUT} --mv_type learned
    --unfreeze_n_vision_tower_layers 12 --do_img_order_augment"""
DOWNSTREAM = f"""{COMMON} --data_path ../data/llava_samples/downstream_task_train_Truetempaug_drophistory0.5.json
    --output_dir ./checkpoints/llava-v1.5-7b-task-lora_hybridor_qlora_downstream_tasks --run_name x
    --per_device_train_batch_size 16 --per_device_eval_batch_size 16 --gradient_accumulation_steps 1"""


def settings(experiment: Experiment) -> Experiment:
    """An experiment but for where its files are and what the run is called."""
    start = replace(experiment.start, curriculum=None)
    train = replace(experiment.train, run_name=None, deepspeed=None)
    return replace(experiment, files=FilesConfig(), start=start, train=train)


@pytest.mark.parametrize(("name", "command"), [("base", BASE), ("temporal", TEMPORAL), ("downstream", DOWNSTREAM)])
def test_published_commands_are_their_experiment_files(name: str, command: str) -> None:
    options = read_options(command.split())
    file = read_experiment(CONFIGS / "scene_graph" / f"{name}.yaml")
    assert settings(options.experiment) == settings(file)
    assert options.experiment.files.samples[0].name == file.files.samples[0].name
    assert options.experiment.files.out is not None
    assert file.files.out is not None
    assert options.experiment.files.out.name == file.files.out.name
    assert (options.experiment.start.curriculum is None) == (file.start.curriculum is None)
    assert options.experiment.train.deepspeed == ZERO2
    assert ZERO2.is_file()


def test_what_is_translated_or_has_no_effect_is_said_once() -> None:
    notes = read_options(TEMPORAL.split()).notes
    for name in ("warmup_ratio", "evaluation_strategy", "tf32", "per_device_eval_batch_size", "lazy_preprocess"):
        assert sum(f"--{name} " in note for note in notes) == 1


def test_the_last_of_repeated_options_holds_and_spellings_are_the_same() -> None:
    words = ["--bits=16", "--do-img-order-augment", "--lora-enable", "--lora_r", "4", "--bits", "4", "--seed", "7"]
    experiment = read_options(words).experiment
    assert experiment.start.bits == 4
    assert experiment.start.lora == LoraConfig(rank=4)
    assert experiment.train.shuffle_views
    assert experiment.train.seed == 7


def test_what_a_command_leaves_out_is_off() -> None:
    experiment = read_options(["--multimodal_drop_prop", "0.5", "--lora_r", "8"]).experiment
    assert experiment.train.modality_dropout == 0
    assert experiment.start.lora is None
    assert not experiment.train.token_weights
    assert experiment.train.order == "random"


def test_options_change_an_experiment_file() -> None:
    base = read_experiment(CONFIGS / "scene_graph" / "base.yaml")
    changed = read_options(["--learning_rate", "1e-4", "--image_folder", "elsewhere"], base).experiment
    assert changed.train == replace(base.train, learning_rate=1e-4)
    assert changed.start == base.start
    assert changed.files.data == Path("elsewhere")
    assert read_options(["--lora_enable", "False"], base).experiment.start.lora is None
    assert read_options(["--do_multimodal_augment", "False"], base).experiment.train.modality_dropout == 0


def test_places_in_a_file_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "a.yaml").write_text("files: {samples: [~/a.json], out: ~/model}\nstart: {base: ~/llava}")
    experiment = read_experiment(tmp_path / "a.yaml")
    files = experiment.files
    assert experiment.start.base == "/home/me/llava"  # not fetched from the hub
    assert (files.samples, files.out) == ((Path("/home/me/a.json"),), Path("/home/me/model"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lora_enabled True", "did you mean --lora_enable?"),
        ("--gradient_acumulation_steps 4", "did you mean --gradient_accumulation_steps?"),
        ("--xyz 4", "--xyz is no option of training"),
        ("--bits 3", "--bits: expected one of 4, 16, 32, got '3'"),
        ("--bits four", "--bits"),
        ("--learning_rate fast", "--learning_rate: expected float"),
        ("--bf16 perhaps", "--bf16: expected bool"),
        ("--group_by_modality_length 1", "--group_by_modality_length 1: expected True or False"),
        ("--lr_scheduler_type sin", "there is only cosine here"),
        ("--lr_scheduler_type=", "there is only cosine here"),
        ("--version 1", "there is only v1 here"),
        ("--mm_projector_type gelu", "there is only mlp2x_gelu here"),
        ("--save_steps 0", "--save_steps: save_steps is 0"),
        ("--learning_rate nan", "--learning_rate: learning_rate is nan"),
        ("--lora_enable True --lora_r 0", "--lora_r: rank is 0"),
        ("--lora_enable perhaps", "--lora_enable perhaps: expected True or False"),
        ("--version v0", "--version v0: there is only v1"),
        ("--report_to tensorboard", "--report_to: expected one of none, wandb"),
        ("--bits 4 16", "'16' belongs to no option"),
        ("bits", "'bits' belongs to no option"),
    ],
)
def test_wrong_options_are_named(words: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_options(words.split())
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_has_no_base_to_act_on_is_said() -> None:
    options = read_options(["--bits", "16"], Experiment())
    assert any("--bits 16 has no effect" in note for note in options.notes)


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        ("--multimodal_drop_prop 0.5", "multimodal_drop_prop"),
        ("--do_multimodal_augment False --multimodal_drop_prop 0.5", "multimodal_drop_prop"),
        ("--do_multimodal_augment", "do_multimodal_augment"),
        ("--do_multimodal_augment --multimodal_drop_prop 0", "do_multimodal_augment"),
        ("--do_multimodal_augment --multimodal_drop_prop 0.5", None),
        ("--do_multimodal_augment False", None),
    ],
)
def test_half_of_what_leaves_modalities_out_is_said_to_do_nothing(words: str, idle: str | None) -> None:
    options = read_options(words.split())
    assert (options.experiment.train.modality_dropout > 0) == (words.count("0.5") > 0 and idle is None)
    assert [note.split()[0] for note in options.notes] == [f"--{idle}"] * (idle is not None)


def test_pretraining_and_kept_checkpoints_have_options() -> None:
    train = read_options(["--save_total_limit", "5", "--pretrain_steps", "7"], Experiment()).experiment
    assert train.train.save_total_limit == 5
    assert train.pretrain == PretrainConfig(steps=7)


def test_counts_of_other_permutations_stand_in_and_that_is_said(tmp_path: Path) -> None:
    there = tmp_path / "train_token_freqs_7b_20perm.json"
    there.write_text("{}")
    wanted = tmp_path / "train_token_freqs_7b_50perm.json"
    options = read_options(["--token_weight_path", str(wanted)])
    assert options.experiment.files.token_frequencies == there
    assert any(str(wanted) in note and str(there) in note for note in options.notes)
    (tmp_path / "train_token_freqs_7b_10perm.json").write_text("{}")  # which of the two is not for us to say
    assert read_options(["--token_weight_path", str(wanted)]).experiment.files.token_frequencies == wanted


def test_an_adapter_that_the_file_describes_stays_as_it_is() -> None:
    """Beside an experiment file `--lora_enable True` made one of rank 128 of it, without a word."""
    lora = LoraConfig(rank=16, alpha=32, dropout=0.1)
    start = replace(Experiment(), start=replace(Experiment().start, base="b", lora=lora))
    assert read_options(["--lora_enable", "True"], start).experiment.start.lora == lora
    assert read_options(["--lora_enable", "False"], start).experiment.start.lora is None
    without = replace(start, start=replace(start.start, lora=None))
    assert read_options(["--lora_enable", "True"], without).experiment.start.lora == LoraConfig()
