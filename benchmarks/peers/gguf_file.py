"""A LLaMA decoder of random weights as the GGUF file that ``llama-quantize ... Q4_0`` would make of a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from numpy.typing import NDArray

from benchmarks.peers.shapes import layer_matrices, random_bytes, scales
from engines.layers.decoder import LlamaConfig

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_Q4_0, _Q6_K = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q6_K
Blocks = NDArray[np.uint8]


def write_gguf(path: Path, llama: LlamaConfig) -> None:
    """Write ``path`` tensor by tensor; matrices are Q4_0 and the head Q6_K, as that tool chooses."""
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(llama.num_layers)
    writer.add_context_length(llama.max_positions)
    writer.add_embedding_length(llama.hidden_size)
    writer.add_feed_forward_length(llama.intermediate_size)
    writer.add_head_count(llama.num_heads)
    writer.add_head_count_kv(llama.num_kv_heads)
    writer.add_layer_norm_rms_eps(llama.rms_norm_eps)
    writer.add_rope_dimension_count(llama.head_dim)
    writer.add_rope_freq_base(llama.rotary.theta)
    writer.add_vocab_size(llama.vocab_size)
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    _add_vocabulary(writer, llama.vocab_size)

    matrices = [("token_embd.weight", llama.vocab_size, llama.hidden_size, _Q4_0)]
    norms = ["output_norm.weight"]
    for layer in range(llama.num_layers):
        names = [(_NAMES[matrix.name], matrix) for matrix in layer_matrices(llama)]
        matrices += [(f"blk.{layer}.{name}.weight", m.rows, m.columns, _Q4_0) for name, m in names]
        norms += [f"blk.{layer}.{norm}.weight" for norm in ("attn_norm", "ffn_norm")]
    matrices.append(("output.weight", llama.vocab_size, llama.hidden_size, _Q6_K))
    makers = {_Q4_0: _q4_0, _Q6_K: _q6_k}
    for name, rows, columns, kind in matrices:
        shape = makers[kind](rng, 1, columns).shape
        writer.add_tensor_info(name, (rows, shape[1]), np.dtype(np.uint8), rows * shape[1], kind)
    for name in norms:
        writer.add_tensor_info(name, (llama.hidden_size,), np.dtype(np.float32), 4 * llama.hidden_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, rows, columns, kind in matrices:
        writer.write_tensor_data(makers[kind](rng, rows, columns))
    for _ in norms:
        writer.write_tensor_data(np.ones(llama.hidden_size, np.float32))
    writer.close()


def _q4_0(rng: np.random.Generator, rows: int, columns: int) -> Blocks:
    """Blocks of 32 weights: a float16 scale and 16 bytes of codes."""
    blocks = random_bytes(rng, rows, columns // 32, 18)
    blocks[..., :2] = scales(np.float16, 1).view(np.uint8)
    return blocks.reshape(rows, -1)


def _q6_k(rng: np.random.Generator, rows: int, columns: int) -> Blocks:
    """Blocks of 256 weights: 192 bytes of codes, 16 scales of 8 bits, and their float16 scale."""
    blocks = random_bytes(rng, rows, columns // 256, 210)
    blocks[..., 192:208] = 1
    blocks[..., 208:] = (scales(np.float16, 1) / 4).view(np.uint8)
    return blocks.reshape(rows, -1)


def _add_vocabulary(writer: GGUFWriter, size: int) -> None:
    """The three tokens that every program asks for, the bytes, and words that nobody writes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    more = range(len(words), size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*words, *(f"<unused{token}>" for token in more)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([*kinds, *[TokenType.UNUSED] * len(more)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
