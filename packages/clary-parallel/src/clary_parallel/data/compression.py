"""What gradients are turned into while they travel."""

from __future__ import annotations

from typing import Any

from clary_parallel.frameworks import tf

Tensor = Any


class Compressor:
    """Turns a tensor into what is sent, and back. Subclass it to bring your own."""

    @staticmethod
    def compress(tensor: Tensor) -> tuple[Tensor, Any]:
        """What is sent (a floating type), and what `decompress` needs to know."""
        return tensor, None

    @staticmethod
    def decompress(tensor: Tensor, context: Any) -> Tensor:
        """The tensor that was meant."""
        return tensor


class _Float16(Compressor):
    @staticmethod
    def compress(tensor: Tensor) -> tuple[Tensor, Any]:
        return _cast(tensor, tf.float16)

    @staticmethod
    def decompress(tensor: Tensor, context: Any) -> Tensor:
        return tf.cast(tensor, context)


class _BFloat16(Compressor):
    @staticmethod
    def compress(tensor: Tensor) -> tuple[Tensor, Any]:
        return _cast(tensor, tf.bfloat16)

    @staticmethod
    def decompress(tensor: Tensor, context: Any) -> Tensor:
        return tf.cast(tensor, context)


class Compression:
    """The compressors: `none`; `fp16` (11 bits of precision, up to 65504); `bf16` (8 bits, float32's range).

    Sums are made in float32 whatever travels.
    """

    none = Compressor
    fp16 = _Float16
    bf16 = _BFloat16


def _cast(tensor: Tensor, kind: Any) -> tuple[Tensor, Any]:
    floating = tensor.dtype.is_floating
    return (tf.cast(tensor, kind) if floating else tensor), tensor.dtype
