"""The model hub's many errors as one line each."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from operating_room.errors import UserError

_FULL = ("no space left", "quota exceeded")  # whatever library writes, and wraps it in


@contextmanager
def hub_errors(repository: str) -> Generator[None]:
    """Turn whatever goes wrong while `repository` is asked for into a UserError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{repository}: needs permission; ask for it on its page, then run `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{repository}: is not on the model hub; check the name, or give a local folder") from error
    except errors.HFValidationError as error:
        raise UserError(f"{repository}: is neither a folder here nor a name OWNER/NAME of the model hub") from error
    except UserError:
        raise
    except Exception as error:  # a proxy that the client cannot use is an ImportError, a ValueError, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "check the connection and run it again, or give a local copy"
        if any(words in str(error).lower() for words in _FULL):
            advice = "make room, or set HF_HOME to a folder on a larger disk"
        raise UserError(f"{repository}: cannot be fetched from the model hub ({reason}); {advice}") from error
