#!/usr/bin/env python3
"""Whether the baseline computes what this engine does: log-probabilities of the same tokens under the same f32 checkpoint.

    node packages/model/scripts/random-checkpoint.ts --preset tiny-qwen3 --dtype f32 --out MODEL
    echo '{"ids":[1,5,9,200,33,4,7,8]}' > ids.jsonl
    npm run srcode -- score --model MODEL --input ids.jsonl --out scores.jsonl
    python3 bench/compare/same_model.py MODEL ids.jsonl scores.jsonl

Prints the largest difference of a log-probability and exits with 1 when it exceeds 1e-4. One file of weights; needs torch and numpy.
"""
import json
import struct
import sys

import numpy as np
import torch

from torch_baseline import Decoder, log_probs

NAMES = dict(q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj")
NAMES.update(gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj")
NORMS = dict(norm1="input_layernorm", norm2="post_attention_layernorm")


def load(folder):
    with open(folder + "/config.json") as file:
        c = json.load(file)
    with open(folder + "/model.safetensors", "rb") as file:
        raw = file.read()
    (length,) = struct.unpack("<Q", raw[:8])
    entries = json.loads(raw[8 : 8 + length])

    def tensor(name):
        begin, end = entries[name]["data_offsets"]
        data = np.frombuffer(raw[8 + length + begin : 8 + length + end], dtype=np.float32)
        return torch.tensor(data.reshape(entries[name]["shape"]).copy())

    c.setdefault("head_dim", c["hidden_size"] // c["num_attention_heads"])
    c["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in entries
    c["qk_norm"] = "model.layers.0.self_attn.q_norm.weight" in entries
    model = Decoder(c, torch.float32, "cpu", c["max_position_embeddings"])
    model.embed.data = tensor("model.embed_tokens.weight")
    model.norm.weight.data = tensor("model.norm.weight")
    model.head.data = model.embed.data if c.get("tie_word_embeddings") else tensor("lm_head.weight")
    for i, layer in enumerate(model.layers):
        at = f"model.layers.{i}."
        for name, stored in NAMES.items():
            linear = getattr(layer, name)
            linear.weight.data = tensor(f"{at}{stored}.weight")
            if linear.bias is not None:
                linear.bias.data = tensor(f"{at}{stored}.bias")
        for name, stored in NORMS.items():
            getattr(layer, name).weight.data = tensor(f"{at}{stored}.weight")
        if c["qk_norm"]:
            layer.q_norm.weight.data = tensor(at + "self_attn.q_norm.weight")
            layer.k_norm.weight.data = tensor(at + "self_attn.k_norm.weight")
    return model


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    model = load(sys.argv[1])
    worst = 0.0
    with open(sys.argv[2]) as given, open(sys.argv[3]) as scored:
        for ids, scores in zip(given, scored):
            with torch.no_grad():
                own = log_probs(model, torch.tensor([json.loads(ids)["ids"]]))[0].numpy()
            worst = max(worst, float(np.abs(own - np.array(json.loads(scores)["logprobs"])).max()))
    print(f"largest difference of a log-probability: {worst:.3g}")
    sys.exit(0 if worst <= 1e-4 else 1)


if __name__ == "__main__":
    main()
