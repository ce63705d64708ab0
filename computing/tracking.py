"""Following a training or an evaluation on Weights & Biases."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from operating_room.errors import UserError
from operating_room.work.processes import is_first


def check_wandb(option: str) -> None:
    """Find out before hours of work whether they can be logged.

    Asks for a key where there is none and somebody can answer. Of several processes only the first logs.

    Args:
        option: of the command, for the message.

    Raises:
        UserError: wandb is not installed, or it has no key and is not switched to offline.
    """
    if find_spec("wandb") is None:
        raise UserError(f'{option}: wandb is not installed: pip install "mmor[wandb]", or leave the option out')
    import wandb

    if not is_first() or wandb.setup().settings.mode in ("offline", "disabled", "dryrun"):
        return
    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise UserError(f"{option}: {error} To keep the log on this machine, set WANDB_MODE=offline") from error


def finish_wandb() -> None:
    """Wait until all that was logged is stored, or sent; without a run, nothing happens."""
    if "wandb" not in sys.modules:
        return
    import wandb

    if wandb.run is not None:
        wandb.finish()
