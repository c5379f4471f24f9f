#!/usr/bin/env python3
"""The PyTorch side of the comparison: the same work on the same device, with random weights of the same shape.

Plain torch, so that nothing but torch has to be installed: a decoder as transformers computes it (bf16, SDPA, RMS norms
and the loss in f32), low-rank adapters on all linear layers as PEFT adds them, fused AdamW, a key-value cache that is
allocated once, and top-p sampling by sorting. Where a choice was open it is the faster one: adapters compute in bf16 (their
parameters are f32), the cache is not concatenated, and no padding mask is applied.

    torch_baseline.py --config JSON --what gemm,sft,generate,logprob,prefill,transformers --out FILE
        [--batch 2] [--sequence 2048] [--prompt 256] [--new 128] [--gen-batch 1,64] [--rank 8] [--rounds 5] [--seconds 300]
        [--checkpointing] [--compile] [--device cuda|cpu]

`transformers` times that library's `generate` and PEFT's step as well, in rows named `... (transformers)` and `... (PEFT)`; where
one of the two is not installed, a line says so. Work is done in the order of what would be missed most. A piece begins no further
round when it has had a fifth of `--seconds`, and none is begun when they are over.

`--config` has the names of a Hugging Face config.json. Results are a list of objects, written after each of them:
{"what", "name", "seconds" (median), "min", "max", "peak_bytes", and "tokens" or "flops"}.
"""
import argparse
import gc
import json
import math
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

HAS_SDPA = hasattr(F, "scaled_dot_product_attention")


class LoraLinear(nn.Module):
    """y = x Wᵀ + b, and with an adapter + scale (x Aᵀ) Bᵀ; W is frozen."""

    def __init__(self, inner, out, bias, dtype, device):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inner, device=device, dtype=dtype) * 0.02, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out, device=device, dtype=dtype), requires_grad=False) if bias else None
        self.a = self.b = None
        self.scale = 0.0

    def adapt(self, rank, alpha):
        out, inner = self.weight.shape
        device = self.weight.device
        self.a = nn.Parameter((torch.rand(rank, inner, device=device) * 2 - 1) / math.sqrt(inner))
        self.b = nn.Parameter(torch.zeros(out, rank, device=device))
        self.scale = alpha / rank

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        if self.a is None:
            return y
        low = F.linear(x, self.a.to(x.dtype))
        return y + F.linear(low, self.b.to(x.dtype)) * self.scale


class RmsNorm(nn.Module):
    def __init__(self, size, eps, dtype, device):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, device=device, dtype=dtype), requires_grad=False)
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + turned * sin


def attend(q, k, v, causal):
    """q [B, H, T, D], k and v [B, G, S, D]."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if HAS_SDPA:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    if causal:
        rows, cols = scores.shape[-2:]
        hidden = torch.ones(rows, cols, dtype=torch.bool, device=q.device).triu(1 + cols - rows)
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores.softmax(-1).to(q.dtype) @ v


class Layer(nn.Module):
    def __init__(self, c, dtype, device):
        super().__init__()
        h, d, bias = c["hidden_size"], c["head_dim"], c.get("attention_bias", False)
        self.heads, self.kv, self.d = c["num_attention_heads"], c["num_key_value_heads"], d
        eps = c["rms_norm_eps"]

        def linear(inner, out, with_bias=False):
            return LoraLinear(inner, out, with_bias, dtype, device)

        self.q = linear(h, self.heads * d, bias)
        self.k = linear(h, self.kv * d, bias)
        self.v = linear(h, self.kv * d, bias)
        self.o = linear(self.heads * d, h)
        self.gate, self.up = linear(h, c["intermediate_size"]), linear(h, c["intermediate_size"])
        self.down = linear(c["intermediate_size"], h)
        self.norm1, self.norm2 = RmsNorm(h, eps, dtype, device), RmsNorm(h, eps, dtype, device)
        normed = c.get("qk_norm", False)
        self.q_norm = RmsNorm(d, eps, dtype, device) if normed else nn.Identity()
        self.k_norm = RmsNorm(d, eps, dtype, device) if normed else nn.Identity()

    def forward(self, x, cos, sin, cache=None, at=0):
        b, t, _ = x.shape
        y = self.norm1(x)
        q = rotate(self.q_norm(self.q(y).view(b, t, self.heads, self.d)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k(y).view(b, t, self.kv, self.d)).transpose(1, 2), cos, sin)
        v = self.v(y).view(b, t, self.kv, self.d).transpose(1, 2)
        if cache is not None:
            cache[0][:, :, at : at + t], cache[1][:, :, at : at + t] = k, v
            k, v = cache[0][:, :, : at + t], cache[1][:, :, : at + t]
        o = attend(q, k, v, t > 1).transpose(1, 2).reshape(b, t, -1)
        x = x + self.o(o)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, c, dtype, device, positions):
        super().__init__()
        self.c, self.dtype = c, dtype
        h, vocab = c["hidden_size"], c["vocab_size"]
        self.embed = nn.Parameter(torch.randn(vocab, h, device=device, dtype=dtype) * 0.02, requires_grad=False)
        self.layers = nn.ModuleList(Layer(c, dtype, device) for _ in range(c["num_hidden_layers"]))
        self.norm = RmsNorm(h, c["rms_norm_eps"], dtype, device)
        tied = c.get("tie_word_embeddings", False)
        other = None if tied else torch.randn(vocab, h, device=device, dtype=dtype) * 0.02
        self.head = self.embed if tied else nn.Parameter(other, requires_grad=False)
        d = c["head_dim"]
        scaling = c.get("rope_scaling") or {}
        linear = scaling.get("rope_type", scaling.get("type")) == "linear"
        position = torch.arange(positions, device=device) / (scaling["factor"] if linear else 1)
        angle = position[:, None] * (
            c["rope_theta"] ** (-torch.arange(0, d, 2, device=device).float() / d)
        )
        both = torch.cat((angle, angle), -1)
        self.cos, self.sin = both.cos().to(dtype), both.sin().to(dtype)
        self.checkpointing = False

    def states(self, ids, caches=None, at=0):
        x = F.embedding(ids, self.embed)
        t = ids.shape[1]
        cos, sin = self.cos[at : at + t], self.sin[at : at + t]
        for i, layer in enumerate(self.layers):
            if self.checkpointing and torch.is_grad_enabled():
                if not x.requires_grad:
                    x = x.requires_grad_()
                x = checkpoint(layer, x, cos, sin, use_reentrant=False)
            else:
                x = layer(x, cos, sin, None if caches is None else caches[i], at)
        return self.norm(x)

    def logits(self, states):
        return F.linear(states, self.head)


def log_probs(model, ids):
    logits = model.logits(model.states(ids))[:, :-1].float()
    return logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)


def sample(logits, top_p):
    ordered, index = logits.float().sort(-1, descending=True)
    p = ordered.softmax(-1)
    p = p.masked_fill(p.cumsum(-1) - p > top_p, 0)
    return index.gather(-1, torch.multinomial(p, 1))


@torch.no_grad()
def generate(model, prompt, new, top_p=0.9):
    c = model.c
    b, t = prompt.shape
    shape = (b, c["num_key_value_heads"], t + new, c["head_dim"])
    caches = [[torch.empty(shape, device=prompt.device, dtype=model.dtype) for _ in range(2)] for _ in model.layers]
    ids, at, out = prompt, 0, []
    for _ in range(new):
        states = model.states(ids, caches, at)
        at += ids.shape[1]
        ids = sample(model.logits(states[:, -1]), top_p)
        out.append(ids)
    return torch.cat(out, 1)


class Bench:
    def __init__(self, options):
        self.o = options
        self.cuda = options.device == "cuda"
        self.rows = []
        self.end = time.perf_counter() + options.seconds
        self.patience = options.seconds / 5

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def timed(self, work, rounds, warmup, repeat):
        began = time.perf_counter()
        for i in range(warmup):
            if i > 0 and time.perf_counter() - began > self.patience / 2:
                break
            work()
            self.sync()
        self.sync()
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            if seconds and started - began > self.patience:
                break
            for _ in range(repeat):
                work()
            self.sync()
            seconds.append((time.perf_counter() - started) / repeat)
        return {"seconds": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}

    def measure(self, what, name, work, rounds, warmup=2, repeat=1, **more):
        """Times one piece of work, `repeat` of it a round; running out of memory is a result too."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        row = {"what": what, "name": name, **more}
        if time.perf_counter() > self.end:
            return self.add({**row, "problem": "no time was left for it", "peak_bytes": None})
        try:
            row.update(self.timed(work, rounds, warmup, repeat))
        except RuntimeError as error:
            row["problem"] = str(error).split("\n")[0][:300]
        row["peak_bytes"] = torch.cuda.max_memory_allocated() if self.cuda else None
        self.add(row)

    def add(self, row):
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def write(self):
        name = torch.cuda.get_device_name() if self.cuda else "cpu"
        result = {"torch": torch.__version__, "device": name, "cuda": torch.version.cuda, "sdpa": HAS_SDPA, "rows": self.rows}
        with open(self.o.out + ".tmp", "w") as file:
            json.dump(result, file, indent=1)
        os.replace(self.o.out + ".tmp", self.o.out)


def with_libraries(bench, c, o):
    """The same work by transformers and PEFT, on a model of theirs of the same shape."""
    try:
        import transformers
        import peft
    except ImportError as error:
        print(f"transformers' generate and PEFT's step are left out: {error}", flush=True)
        return
    kinds = {"qwen2": "Qwen2Config", "qwen3": "Qwen3Config", "llama": "LlamaConfig"}
    names = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    names += ["vocab_size", "rms_norm_eps", "rope_theta", "tie_word_embeddings"]
    longest = max(o.sequence, o.prompt + o.new)
    if c["model_type"] != "qwen2":
        names.append("head_dim")
    own = {name: c[name] for name in names}
    config = getattr(transformers, kinds[c["model_type"]])(**own, max_position_embeddings=longest, eos_token_id=None)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(o.device):
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(default)
    sampling = dict(do_sample=True, top_p=0.9, top_k=0, min_new_tokens=o.new, max_new_tokens=o.new, pad_token_id=0)
    for b in (int(x) for x in o.gen_batch.split(",")):
        prompt = torch.randint(0, c["vocab_size"], (b, o.prompt), device=o.device)
        mask = torch.ones_like(prompt)
        with torch.no_grad():
            work = lambda: model.generate(prompt, attention_mask=mask, **sampling)
            bench.measure("generate", f"generate, batch {b} (transformers)", work, max(1, o.rounds // 2), 1, tokens=b * o.new)
    ids = torch.randint(0, c["vocab_size"], (o.batch, o.sequence), device=o.device)
    lora = peft.LoraConfig(
        r=o.rank, lora_alpha=2 * o.rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    if o.checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    tuned = peft.get_peft_model(model, lora)
    trained = [q for q in tuned.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, **({"fused": True} if bench.cuda else {}))

    def step():
        tuned(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    bench.measure("sft", "LoRA step (PEFT)", step, o.rounds, tokens=o.batch * o.sequence)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--config", required=True)
    p.add_argument("--what", default="gemm,sft,generate,logprob,prefill")
    p.add_argument("--out", required=True)
    for name, value in dict(batch=2, sequence=2048, prompt=256, new=128, rank=8, rounds=5, prefill=2048).items():
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--gen-batch", default="1,64")
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--device", default="cuda")
    p.add_argument("--seconds", type=float, default=300)
    o = p.parse_args()
    if o.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch is here but finds no CUDA device")
    torch.manual_seed(1)
    c = json.loads(o.config)
    what = o.what.split(",")
    dtype = torch.bfloat16
    bench = Bench(o)
    bench.write()
    tokens = o.batch * o.sequence
    h, d = c["hidden_size"], c["head_dim"]
    if "gemm" in what:
        shapes = {
            "qkv": ((c["num_attention_heads"] + 2 * c["num_key_value_heads"]) * d, h),
            "o": (h, c["num_attention_heads"] * d),
            "gate_up": (2 * c["intermediate_size"], h),
            "down": (h, c["intermediate_size"]),
        }
        for name, (n, k) in shapes.items():
            w = torch.randn(n, k, device=o.device, dtype=dtype)
            x = torch.randn(tokens, k, device=o.device, dtype=dtype)
            dy = torch.randn(tokens, n, device=o.device, dtype=dtype)
            flops = 2 * tokens * n * k
            bench.measure("gemm", name + " NT", lambda: x @ w.t(), o.rounds, repeat=8, flops=flops, m=tokens, n=n, k=k)
            bench.measure("gemm", name + " NN", lambda: dy @ w, o.rounds, repeat=8, flops=flops, m=tokens, n=k, k=n)
            del w, x, dy
    own = {"sft", "logprob", "prefill", "generate"} & set(what)
    if own:
        own_model(bench, c, o, what)
    gc.collect()
    if "transformers" in what:
        try:
            with_libraries(bench, c, o)
        except Exception as error:
            print(f"transformers and PEFT are not measured any further: {type(error).__name__}: {error}", flush=True)


def own_model(bench, c, o, what):
    tokens = o.batch * o.sequence
    longest = max(o.sequence, o.prompt + o.new, o.prefill)
    model = Decoder(c, torch.bfloat16, o.device, longest)
    ids = torch.randint(0, c["vocab_size"], (o.batch, o.sequence), device=o.device)
    if "sft" in what:
        linear = [m for layer in model.layers for m in layer.modules() if isinstance(m, LoraLinear)]
        for module in linear:
            module.adapt(o.rank, 2 * o.rank)
        trained = [q for q in model.parameters() if q.requires_grad]
        model.checkpointing = o.checkpointing
        fused = {"fused": True} if bench.cuda else {}
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, **fused)
        run = torch.compile(model.states) if o.compile else model.states

        def step():
            logits = model.logits(run(ids)).float()
            loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step.losses.append(loss.detach())

        step.losses = []
        bench.measure("sft", "LoRA step", step, o.rounds, tokens=tokens)
        if bench.rows[-1].get("problem") is None:
            bench.rows[-1]["losses"] = [float(x) for x in step.losses]
            bench.write()
        # What follows runs without adapters.
        del step, optimizer, trained
        model.checkpointing = False
        for module in linear:
            module.a = module.b = None
    if "generate" in what:
        for b in (int(x) for x in o.gen_batch.split(",")):
            prompt = torch.randint(0, c["vocab_size"], (b, o.prompt), device=o.device)
            work = lambda: generate(model, prompt, o.new)
            bench.measure("generate", f"generate, batch {b}", work, max(1, o.rounds // 2), 1, tokens=b * o.new)
    if "logprob" in what:
        with torch.no_grad():
            bench.measure("logprob", "log-probabilities", lambda: log_probs(model, ids), o.rounds, tokens=tokens)
    if "prefill" in what:
        prompt = torch.randint(0, c["vocab_size"], (1, o.prefill), device=o.device)
        bench.measure("prefill", "prefill", lambda: generate(model, prompt, 1), o.rounds, tokens=o.prefill)


if __name__ == "__main__":
    main()
