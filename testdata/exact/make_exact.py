#!/usr/bin/env python3
"""Evaluates the golden models of ../golden in float64.

The goldens were computed in f32, so they are themselves off by the rounding errors of f32. This script says by how
much: it evaluates the same functions, on the same weights, with every operation in f64, whose errors are below 1e-12.
What it stores, rounded once to f32, stands for exact arithmetic in the tests.

    pip install torch safetensors
    python testdata/exact/make_exact.py

It writes two things beside itself. `<name>.safetensors` holds `hidden.<i>`, `final_norm`, `logits`, `mtp.<k>.hidden` and
`mtp.<k>.logits`, the same rows as the golden file. `exact.json` holds, per model, the `losses` of the AdamW trajectory
and their `sensitivity`: how far each moves (relative, the largest of eight trials) if every weight is changed by up to
one unit in its last f32 place. AdamW divides a gradient by its own size, so an element that is nearly zero moves its
weight by a full learning rate in a direction that rounding chooses, and an f32 program cannot follow the trajectory
more closely than about this.

The equations are those of DeepSeek-V3 (arXiv 2412.19437, sections 2.1 and 2.2) and, for the softmax router, DeepSeek-V2
(arXiv 2405.04434, 2.2). Rounding that defines the model rather than evaluates it stays in f32, because both f32 programs
share it: weights decoded from block-FP8, the RoPE frequencies, and the angle, the f32 product of position and frequency.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden"


def load_weights(folder):
    """Every tensor of the checkpoint as f64. A block-FP8 weight is code times scale, rounded to f32."""
    raw = {}
    for file in sorted(folder.glob("model*.safetensors")):
        raw |= load_file(file)
    weights = {}
    for name, tensor in raw.items():
        if name.endswith("_scale_inv"):
            continue
        value = tensor.float()
        if tensor.dtype == torch.float8_e4m3fn:
            rows, columns = tensor.shape
            scale = raw[name + "_scale_inv"]
            value = value * scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
        weights[name] = value.double()
    return weights


class Exact:
    """One golden model. Activations are [T, D]; there is one sequence and no cache."""

    def __init__(self, config, weights):
        defaults = {"rope_scaling": None, "rope_interleave": True, "rope_parameters": None}
        self.c = {**defaults, **config}
        self.w = weights
        self.inv_freq, self.rope_factor, self.softmax_scale = self.rope_constants()

    def rope_constants(self):
        """YaRN (arXiv 2309.00071, 3.2): f32 frequencies [dr/2], the factor on cos and sin, the factor on scores."""
        c = self.c
        scaling = c["rope_scaling"]
        theta = c.get("rope_theta")
        if c["rope_parameters"]:
            scaling, theta = c["rope_parameters"], c["rope_parameters"]["rope_theta"]
            if scaling["rope_type"] == "default":
                scaling = None
        dr = c["qk_rope_head_dim"]
        scale = (c["qk_nope_head_dim"] + dr) ** -0.5
        exponent = torch.arange(0, dr, 2, dtype=torch.float32) / dr
        period = (float(theta) ** exponent.double()).float()  # the power in f64, rounded once
        if scaling is None:
            return 1.0 / period, 1.0, scale

        assert scaling["type"] == "yarn"
        factor, original = float(scaling["factor"]), scaling["original_max_position_embeddings"]

        def dimension(rotations):
            return dr * math.log(original / (2 * math.pi * rotations)) / (2 * math.log(theta))

        low = max(math.floor(dimension(scaling["beta_fast"])), 0)
        high = min(math.ceil(dimension(scaling["beta_slow"])), dr - 1)
        if low == high:
            high += 0.001
        keep = 1 - ((torch.arange(dr // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
        inv_freq = (1.0 / (factor * period)) * (1 - keep) + (1.0 / period) * keep

        def mscale(m):
            return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

        m, m_all = scaling["mscale"], scaling["mscale_all_dim"]
        return inv_freq, mscale(m) / mscale(m_all), scale * mscale(m_all) ** 2

    def rope(self, x, positions):
        """Rotates x [T, .., dr]. Queries and keys share one order of dims, which their products do not see."""
        angle = (positions.float()[:, None] * self.inv_freq).double()
        angle = angle.view(len(positions), *[1] * (x.dim() - 2), -1)
        cos, sin = angle.cos() * self.rope_factor, angle.sin() * self.rope_factor
        a, b = (x[..., 0::2], x[..., 1::2]) if self.c["rope_interleave"] else x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def norm(self, x, name, eps=None):
        eps = self.c["rms_norm_eps"] if eps is None else eps
        return self.w[name + ".weight"] * x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()

    def attention(self, x, p, positions):
        c = self.c
        t, heads, dn, dr = len(x), c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"]
        rk = c["kv_lora_rank"]
        # The eps of the two latent norms is 1e-6 whatever the config says of the others.
        if c["q_lora_rank"] is None:
            q = self.linear(x, p + "q_proj")
        else:
            q = self.linear(self.norm(self.linear(x, p + "q_a_proj"), p + "q_a_layernorm", 1e-6), p + "q_b_proj")
        q_nope, q_rope = q.view(t, heads, dn + dr).split([dn, dr], -1)
        latent, k_rope = self.linear(x, p + "kv_a_proj_with_mqa").split([rk, dr], -1)
        kv = self.linear(self.norm(latent, p + "kv_a_layernorm", 1e-6), p + "kv_b_proj")
        k_nope, v = kv.view(t, heads, -1).split([dn, c["v_head_dim"]], -1)
        q_rope, k_rope = self.rope(q_rope, positions), self.rope(k_rope, positions)
        scores = torch.einsum("thd,shd->hts", q_nope, k_nope) + torch.einsum("thd,sd->hts", q_rope, k_rope)
        future = torch.ones(t, t, dtype=torch.bool).triu(1)
        probabilities = (scores * self.softmax_scale).masked_fill(future, -math.inf).softmax(-1)
        return self.linear(torch.einsum("hts,shd->thd", probabilities, v).reshape(t, -1), p + "o_proj")

    def mlp(self, x, p):
        return self.linear(F.silu(self.linear(x, p + "gate_proj")) * self.linear(x, p + "up_proj"), p + "down_proj")

    def route(self, x, p):
        """The chosen experts [T, K], sorted by number, and their weights."""
        c = self.c
        logits = x @ self.w[p + "gate.weight"].T
        groups, k = c["n_group"], c["num_experts_per_tok"]
        v2 = c["model_type"] == "deepseek_v2"
        if v2:
            scores = choice = logits.softmax(-1)
            of_group = choice.unflatten(-1, (groups, -1)).amax(-1)
        else:
            scores = logits.sigmoid()
            choice = scores + self.w[p + "gate.e_score_correction_bias"]
            of_group = choice.unflatten(-1, (groups, -1)).topk(2).values.sum(-1)
        allowed = torch.zeros_like(of_group).scatter(-1, of_group.topk(c["topk_group"]).indices, 1).bool()
        allowed = allowed.repeat_interleave(c["n_routed_experts"] // groups, -1)
        idx = choice.masked_fill(~allowed, -math.inf).topk(k).indices.sort(-1).values
        weights = scores.gather(-1, idx)
        if c["norm_topk_prob"] and not v2:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return idx, weights * c["routed_scaling_factor"]

    def moe(self, x, p, chosen):
        idx, weights = self.route(x, p)
        chosen.append(idx)
        y = self.mlp(x, p + "shared_experts.")
        for expert in idx.unique().tolist():
            row, slot = (idx == expert).nonzero(as_tuple=True)
            y = y.index_add(0, row, self.mlp(x[row], f"{p}experts.{expert}.") * weights[row, slot, None])
        return y

    def layer(self, x, index, positions, chosen):
        p = f"model.layers.{index}."
        x = x + self.attention(self.norm(x, p + "input_layernorm"), p + "self_attn.", positions)
        y = self.norm(x, p + "post_attention_layernorm")
        dense = index < self.c["first_k_dense_replace"]
        return x + (self.mlp(y, p + "mlp.") if dense else self.moe(y, p + "mlp.", chosen))

    def head(self, x):
        return x @ self.w["model.embed_tokens.weight" if self.c["tie_word_embeddings"] else "lm_head.weight"].T

    def forward(self, ids):
        """All tensors by name, and the experts chosen by each mixture layer of the main model."""
        out, chosen, positions = {}, [], torch.arange(len(ids))
        x = out["hidden.0"] = self.w["model.embed_tokens.weight"][ids]
        for index in range(self.c["num_hidden_layers"]):
            x = out[f"hidden.{index + 1}"] = self.layer(x, index, positions, chosen)
        out["final_norm"] = self.norm(x, "model.norm")
        out["logits"] = self.head(out["final_norm"])
        return out, chosen

    def mtp(self, ids, hidden):
        """Depth k joins row i of the depth before, after its norm, with the embedding of token i + k + 1."""
        out = {}
        for k in range(self.c.get("num_nextn_predict_layers", 0)):
            index = self.c["num_hidden_layers"] + k
            p = f"model.layers.{index}."
            embedding = self.w["model.embed_tokens.weight"][ids[k + 1 :]]
            pair = [self.norm(embedding, p + "enorm"), self.norm(hidden[:-1], p + "hnorm")]
            x = self.linear(torch.cat(pair, -1), p + "eh_proj")
            x = self.layer(x, index, torch.arange(len(x)) + 1, [])
            hidden = out[f"mtp.{k}.hidden"] = self.norm(x, p + "shared_head.norm")
            out[f"mtp.{k}.logits"] = self.head(hidden)
        return out


def adamw_losses(config, weights, ids, settings):
    """Losses before each of five updates of every main parameter; the routing bias is not one of them."""
    model = Exact(config, {name: value.clone() for name, value in weights.items()})
    layers = config["num_hidden_layers"]
    skip = tuple(f"model.layers.{layers + k}." for k in range(config.get("num_nextn_predict_layers", 0)))
    names = [n for n in weights if not n.startswith(skip) and not n.endswith("e_score_correction_bias")]
    params = [model.w[name].requires_grad_() for name in names]
    m, v = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    lr, (beta1, beta2), eps = settings["lr"], settings["betas"], settings["eps"]
    assert settings["clip"] is None
    losses = []
    for step in range(1, len(settings["losses"]) + 1):
        loss = F.cross_entropy(model.forward(ids)[0]["logits"][:-1], ids[1:])
        losses.append(loss.item())
        # An expert that no token chose has the gradient zero, and is decayed.
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            for p, g, m_p, v_p in zip(params, grads, m, v, strict=True):
                m_p.mul_(beta1).add_(g, alpha=1 - beta1)
                v_p.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                p.mul_(1 - lr * settings["weight_decay"])
                m_hat, v_hat = m_p / (1 - beta1**step), v_p / (1 - beta2**step)
                p.sub_(lr * m_hat / (v_hat.sqrt() + eps))
    return losses


def sensitivity(config, weights, ids, settings, losses):
    """The largest relative change of each loss over eight trials with weights moved by up to 2^-23 of themselves."""
    largest = [0.0] * len(losses)
    for trial in range(8):
        random = torch.Generator().manual_seed(trial)
        moved = {
            name: value * (1 + 2.0**-23 * (2 * torch.rand(value.shape, generator=random, dtype=torch.float64) - 1))
            for name, value in weights.items()
        }
        trial_losses = adamw_losses(config, moved, ids, settings)
        largest = [max(s, abs(a - b) / b) for s, a, b in zip(largest, trial_losses, losses, strict=True)]
    return largest


def main():
    trajectories = {}
    for folder in sorted(path for path in GOLDEN.iterdir() if path.is_dir()):
        golden = load_file(folder / "golden.safetensors")
        settings = json.loads((folder / "golden.json").read_text())["adamw"]
        config, weights = json.loads((folder / "config.json").read_text()), load_weights(folder)
        model = Exact(config, weights)
        ids = golden["input_ids"].long()
        out, chosen = model.forward(ids)
        out |= model.mtp(ids, out["final_norm"])

        # Both took the same experts: otherwise they evaluated different functions, and no bound would mean anything.
        for layer, idx in enumerate(chosen, config["first_k_dense_replace"]):
            want = golden[f"topk_idx.{layer}"]
            assert torch.equal(idx[-len(want) :].int(), want), f"{folder.name}: experts of layer {layer}"
        compared = {n for n in golden if n.startswith(("hidden.", "mtp.")) or n in ("final_norm", "logits")}
        assert compared == out.keys(), f"{folder.name}: {compared ^ out.keys()}"
        stored = {name: out[name][-len(golden[name]) :].float().contiguous() for name in sorted(out)}
        (HERE / f"{folder.name}.safetensors").write_bytes(save(stored))

        losses = adamw_losses(config, weights, ids, settings)
        moved = sensitivity(config, weights, ids, settings, losses)
        trajectories[folder.name] = {"losses": losses, "sensitivity": [float(f"{s:.1e}") for s in moved]}
        print(folder.name, *trajectories[folder.name]["sensitivity"], flush=True)
    (HERE / "exact.json").write_text(json.dumps(trajectories, indent=1) + "\n")


if __name__ == "__main__":
    main()
