"""Llama's tokenizer file, `tokenizer.model` of SentencePiece, as a tokenizer of the `tokenizers` library.

Same ids as SentencePiece itself, which is what the published models were trained with (stage-2 specification,
section 7). The conversion in transformers 5 gives others: no blank before the first word, other merges of blanks.
"""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from operating_room.domain.domain import mmor
from operating_room.errors import UserError

LLAMA_FILE = "tokenizer.model"
_BLANK = "▁"


def read_llama_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer; text begins with its beginning token, and control tokens in a text are recognised.

    Raises:
        UserError: the file is damaged, or a tokenizer of another kind than Llama's.
    """
    try:
        source = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: is no SentencePiece tokenizer; copy it again from where the model came") from error
    if min(source.bos_id(), source.eos_id(), source.unk_id()) < 0:
        raise UserError(f"{path}: lacks a token for the beginning or the end of a text; give Llama's {LLAMA_FILE}")
    pieces = [source.id_to_piece(i) for i in range(source.vocab_size())]
    ids = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids, merges=_merges(source, ids), unk_token=pieces[source.unk_id()], fuse_unk=True, byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [piece for i, piece in enumerate(pieces) if source.is_control(i) or source.is_unknown(i)]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in control])
    begin = pieces[source.bos_id()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, source.bos_id())]
    )
    # SentencePiece has other kinds of models, whose pieces are joined in another way: ids must be those that it gives.
    question = mmor().language.question
    if tokenizer.encode(question).ids[1:] != source.encode(question):
        raise UserError(f"{path}: is a SentencePiece tokenizer of another kind; give Llama's {LLAMA_FILE}")
    return tokenizer


def _merges(source: SentencePieceProcessor, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, in the order in which SentencePiece prefers them."""
    found = []
    for piece, i in ids.items():
        if source.is_control(i) or source.is_unknown(i) or source.is_byte(i):
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-source.get_score(i), ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
