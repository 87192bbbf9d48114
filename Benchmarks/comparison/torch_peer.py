"""PyTorch's side of a workload: each way that it offers to compute the same, and the same in Double.

The usual call comes first. What else is tried is what its documentation and its developers advise for such a shape; the fastest on
this machine is the peer.
"""

import time

import torch
import torch.nn.functional as F

# Query rows of attention that are computed in Double, one number after another.
SAMPLE_COUNT = 64


class TorchPeer:
    """`ways`: by name, a function without arguments that computes the workload and gives the result."""

    def __init__(self, workload, tensors, threads, rotation):
        torch.set_num_threads(threads)
        self.workload, self.tensors, self.turn = workload, tensors, 0
        self.trains = workload["pass"] == "forward_backward"
        self.kind = workload["op"] + ("_training" if self.trains else "")
        self.ways = dict(getattr(self, self.kind)(rotation))
        self.usual = next(iter(self.ways))

    def seconds(self, way, iterations):
        times = []
        with torch.inference_mode(not self.trains):
            for _ in range(iterations):
                start = time.perf_counter()
                self.ways[way]()
                times.append(time.perf_counter() - start)
        return times

    def result(self, way):
        with torch.inference_mode(not self.trains):
            result = self.ways[way]()
        return torch.cat([x.flatten() for x in result]) if self.trains else result

    def exact(self):
        """Some rows of the result in Double, and which they are: an index of all axes but the last one."""
        with torch.inference_mode(not self.trains):
            return getattr(self, self.kind + "_exact")()

    # Attention

    def sdpa(self, rotation):
        w, t = self.workload, self.tensors
        self.pairs = [(t["key"], t["value"])] + [(t["key"].clone(), t["value"].clone()) for _ in range(rotation - 1)]
        q = t["query"]
        (b, h, l, e), (hk, s) = q.shape, t["key"].shape[1:3]
        group = dict(enable_gqa=True) if h != hk else {}
        masks = self.masks(l, s)
        # PyTorch's is_causal is from the top left: the same where there are as many queries as keys.
        assert w["mask"] != "causal" or l in (1, s), "a causal mask that PyTorch has no argument for"
        is_causal = w["mask"] == "causal" and w["window"] is None and l > 1

        def pair():
            self.turn += 1
            return self.pairs[self.turn % len(self.pairs)]

        def attend(mask=None):
            def call():
                return F.scaled_dot_product_attention(q, *pair(), attn_mask=mask, is_causal=is_causal, **group)
            return call

        for name, mask in masks.items():
            yield name, attend(mask)
        if w["window"] is not None:
            assert h == hk
            for length in (128, 256, 512):
                for kind in ("boolean", "float"):
                    yield f"blocks of {length} queries, {kind} masks", self.blocks(length, kind, pair)
            yield "flex_attention, compiled", self.flex(pair)
        if "key_lengths" in t:
            assert h == hk and not is_causal
            lengths = t["key_lengths"].tolist()
            yield "sample by sample", lambda: torch.cat([
                F.scaled_dot_product_attention(q[i:i + 1], k[i:i + 1, :, :n], v[i:i + 1, :, :n])
                for (k, v) in [pair()] for i, n in enumerate(lengths)])
        if h != hk:
            assert masks.keys() == {"scaled_dot_product_attention"}
            yield "keys repeated", lambda: F.scaled_dot_product_attention(
                q, *(x.repeat_interleave(h // hk, 1) for x in pair()), is_causal=is_causal)
        if l == 1:
            if h != hk:
                rows = q.view(b, hk, h // hk, e)
                yield "heads of a group as queries", lambda: F.scaled_dot_product_attention(rows, *pair()).view(b, h, 1, e)
        if l == 1 or l <= 256 and h == hk and not is_causal:
            # With one query the heads of a group are its rows.
            rows = q.view(b, hk, h // hk * l, e)
            mask = masks.get("float mask")

            def products():
                k, v = pair()
                scores = (rows * e ** -0.5) @ k.transpose(-1, -2)
                if mask is not None:
                    scores += mask
                return (torch.softmax(scores, -1) @ v).view(b, h, l, e)

            def fused():
                k, v = pair()
                keys, values = k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)
                addend = torch.zeros(1, 1, 1, dtype=q.dtype) if mask is None else mask.expand(b, h, l, s).reshape(b * h, l, s)
                scores = torch.baddbmm(addend, rows.flatten(0, 1), keys, beta=0 if mask is None else 1, alpha=e ** -0.5)
                return torch.bmm(torch.softmax(scores, -1), values).view(b, h, l, e)
            yield "products and softmax", products
            yield "bmm and softmax", fused
        if q.dtype == torch.bfloat16:
            def in_float(q, hk):
                group = dict(enable_gqa=True) if q.shape[1] != hk else {}
                return F.scaled_dot_product_attention(
                    q.float(), *(x.float() for x in pair()), is_causal=is_causal, **group).bfloat16()
            yield "in Float", lambda: in_float(q, hk)
            if l == 1 and h != hk:
                yield "heads of a group as queries, in Float", lambda: in_float(rows, hk).view(b, h, 1, e)

    def masks(self, l, s):
        """Tensors that say what the workload's mask says; none where PyTorch has it as an argument, or needs none."""
        w, t = self.workload, self.tensors
        if "bias" in t:
            return {"float mask": t["bias"]}
        attends = t.get("attends")
        if w["window"] is not None:
            ahead = torch.arange(l)[:, None] + (s - l) - torch.arange(s)[None, :]
            attends = (ahead >= 0) & (ahead <= w["window"])
        elif "key_lengths" in t:
            attends = (torch.arange(s)[None, :] < t["key_lengths"][:, None])[:, None, None, :]
        if attends is None:
            return {"scaled_dot_product_attention": None}
        floats = torch.zeros(attends.shape, dtype=t["query"].dtype).masked_fill_(~attends, float("-inf"))
        return {"boolean mask": attends, "float mask": floats}

    def blocks(self, length, kind, pair):
        """Each block of queries by the keys that one of them attends to; the masks are made before."""
        q, window = self.tensors["query"], self.workload["window"]
        parts = []
        for first in range(0, q.shape[2], length):
            low, high = max(0, first - window), min(first + length, q.shape[2])
            ahead = torch.arange(first, high)[:, None] - torch.arange(low, high)[None, :]
            mask = (ahead >= 0) & (ahead <= window)
            if kind == "float":
                mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
            parts.append((slice(first, high), slice(low, high), mask))

        def call():
            k, v = pair()
            output = torch.empty_like(q)
            for queries, keys, mask in parts:
                output[:, :, queries] = F.scaled_dot_product_attention(
                    q[:, :, queries], k[:, :, keys], v[:, :, keys], attn_mask=mask)
            return output
        return call

    def flex(self, pair):
        q, window = self.tensors["query"], self.workload["window"]

        def call():
            if self.compiled is None:
                from torch.nn.attention.flex_attention import create_block_mask, flex_attention
                length = q.shape[2]
                mask = create_block_mask(
                    lambda b, h, i, j: (i >= j) & (i - j <= window), None, None, length, length, device="cpu")
                function = torch.compile(flex_attention)
                self.compiled = lambda k, v: function(q, k, v, block_mask=mask)
            return self.compiled(*pair())
        return call

    compiled = None

    def sdpa_exact(self):
        w, t = self.workload, self.tensors
        q, k, v = t["query"], t["key"], t["value"]
        (b, h, l, e), (hk, s) = q.shape, k.shape[1:3]
        masks = self.masks(l, s) if w["mask"] not in ("none", "causal") or w["window"] is not None else {}
        mask = next(iter(masks.values()), None)
        generator = torch.Generator().manual_seed(1)
        index = [torch.randint(n, (SAMPLE_COUNT,), generator=generator) for n in (b, h, l)]
        # The first and the last row, too.
        for axis, n in zip(index, (b, h, l)):
            axis[0], axis[-1] = 0, n - 1
        rows = []
        for at_b, at_h, i in zip(*(axis.tolist() for axis in index)):
            keys, values = (x[at_b, at_h // (h // hk)].double() for x in (k, v))
            scores = keys @ q[at_b, at_h, i].double() * e ** -0.5
            if w["mask"] == "causal":
                scores[i + s - l + 1:] = -torch.inf
            if mask is not None:
                row = mask.expand(b, h, l, s)[at_b, at_h, i]
                scores = scores.masked_fill(~row, -torch.inf) if row.dtype == torch.bool else scores + row.double()
            rows.append(torch.softmax(scores, -1) @ values)
        return torch.stack(rows), tuple(index)

    # Attention with its gradients: of query, key, value and, where there is one, of the bias, one after another.

    def sdpa_training(self, rotation):
        w, t = self.workload, self.tensors
        (h, l), (hk, s) = t["query"].shape[1:3], t["key"].shape[1:3]
        assert w["window"] is None and (w["mask"] != "causal" or l == s)
        group = dict(enable_gqa=True) if h != hk else {}
        is_causal = w["mask"] == "causal"

        def step(attend, mask):
            def call():
                inputs = [t[name].requires_grad_() for name in ("query", "key", "value")]
                if "bias" in t:
                    inputs.append(mask.requires_grad_())
                output = attend(*inputs[:3], mask)
                return torch.autograd.grad(output, inputs, t["grad_output"])
            return call

        def fused(q, k, v, mask):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, **group)

        def repeated(q, k, v, mask):
            return F.scaled_dot_product_attention(
                q, *(x.repeat_interleave(h // hk, 1) for x in (k, v)), attn_mask=mask, is_causal=is_causal)

        for name, mask in self.masks(l, s).items():
            yield name, step(fused, mask)
        if h != hk:
            yield "keys repeated", step(repeated, None)
        mask = self.float_mask(l, s)
        if h == hk:
            yield "products and softmax", step(self.plain, mask)

    def float_mask(self, l, s):
        """What is added to the scores; none where nothing is."""
        t = self.tensors
        if self.workload["mask"] == "causal":
            return torch.full((l, s), float("-inf"), dtype=t["query"].dtype).triu_(1 + s - l)
        masks = self.masks(l, s)
        return masks.get("float mask")

    @staticmethod
    def plain(q, k, v, mask):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return torch.softmax(scores if mask is None else scores + mask, -1) @ v

    def sdpa_training_exact(self):
        t = self.tensors
        h, hk = t["query"].shape[1], t["key"].shape[1]
        q, k, v, g = (t[name].detach().double() for name in ("query", "key", "value", "grad_output"))
        mask = self.float_mask(q.shape[2], k.shape[2])
        mask = None if mask is None else mask.detach().double()
        results = [torch.zeros_like(x) for x in (q, k, v)]
        if "bias" in t:
            results.append(torch.zeros_like(mask))
        # Head by head: together the scores may not fit in memory.
        for b in range(q.shape[0]):
            for i in range(h):
                own = [q[b, i], k[b, i // (h // hk)], v[b, i // (h // hk)]]
                if "bias" in t:
                    own.append(mask)
                own = [x.clone().requires_grad_() for x in own]
                row = own[3] if "bias" in t else mask
                if row is not None:
                    row = row.expand(q.shape[0], h, -1, -1)[b, i] if row.dim() == 4 else row
                gradients = torch.autograd.grad(self.plain(*own[:3], row), own, g[b, i])
                results[0][b, i] += gradients[0]
                results[1][b, i // (h // hk)] += gradients[1]
                results[2][b, i // (h // hk)] += gradients[2]
                if "bias" in t:
                    results[3] += gradients[3]
        return torch.cat([x.flatten() for x in results]), ...

    # Layers

    def mha(self, rotation):
        t, w = self.tensors, self.workload
        x, h = t["input"], w["heads"]
        d = x.shape[-1]
        self.layer = torch.nn.MultiheadAttention(d, h, batch_first=True, dtype=x.dtype).eval()
        self.layer.load_state_dict({name: t[name] for name in self.layer.state_dict()})

        def call(is_fast):
            torch.backends.mha.set_fastpath_enabled(is_fast)
            return self.layer(x, x, x, need_weights=False)[0]

        def by_hand():
            q, k, v = (
                part.unflatten(-1, (h, d // h)).transpose(1, 2)
                for part in F.linear(x, t["in_proj_weight"], t["in_proj_bias"]).chunk(3, -1))
            joined = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return F.linear(joined, t["out_proj.weight"], t["out_proj.bias"])

        yield "MultiheadAttention", lambda: call(True)
        yield "MultiheadAttention without its fast path", lambda: call(False)
        yield "linear, attention, linear", by_hand

    def mha_exact(self):
        x, layer = self.tensors["input"].double(), self.layer.double()
        result = layer(x, x, x, need_weights=False)[0]
        self.layer.to(self.tensors["input"].dtype)
        return result, ...

    # A layer of BERT with its gradients: of the input, then of the parameters in alphabetical order, one after another.

    def block_training(self, rotation):
        t, h = self.tensors, self.workload["heads"]
        self.parameters = {name: t[name] for name in sorted(t) if name not in ("input", "grad_output", "output")}
        d = t["input"].shape[-1]
        self.layer = torch.nn.TransformerEncoderLayer(
            d, h, 4 * d, dropout=0, activation="gelu", layer_norm_eps=1e-12, batch_first=True, dtype=t["input"].dtype)
        self.layer.load_state_dict(self.parameters)

        def step(forward, parameters):
            def call():
                x = t["input"].requires_grad_()
                return torch.autograd.grad(forward(x), [x, *parameters], t["grad_output"])
            return call

        named = dict(self.layer.named_parameters())
        own = {name: value.clone().requires_grad_() for name, value in self.parameters.items()}
        yield "TransformerEncoderLayer", step(self.layer, [named[name] for name in self.parameters])
        yield "linear, attention, linear", step(lambda x: self.block_by_hand(x, own), list(own.values()))

    def block_by_hand(self, x, p):
        h, d = self.workload["heads"], x.shape[-1]
        q, k, v = (
            part.unflatten(-1, (h, d // h)).transpose(1, 2)
            for part in F.linear(x, p["self_attn.in_proj_weight"], p["self_attn.in_proj_bias"]).chunk(3, -1))
        joined = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.linear(joined, p["self_attn.out_proj.weight"], p["self_attn.out_proj.bias"])
        x = F.layer_norm(x, (d,), p["norm1.weight"], p["norm1.bias"], 1e-12)
        inner = F.gelu(F.linear(x, p["linear1.weight"], p["linear1.bias"]))
        x = x + F.linear(inner, p["linear2.weight"], p["linear2.bias"])
        return F.layer_norm(x, (d,), p["norm2.weight"], p["norm2.bias"], 1e-12)

    def block_training_exact(self):
        t = self.tensors
        p = {name: value.detach().double().requires_grad_() for name, value in self.parameters.items()}
        x = t["input"].detach().double().requires_grad_()
        gradients = torch.autograd.grad(self.block_by_hand(x, p), [x, *p.values()], t["grad_output"].double())
        return torch.cat([g.flatten() for g in gradients]), ...

    # Products and softmax

    def batched_gemm(self, rotation):
        first, second = self.operands()
        output = torch.empty(*first.shape[:-1], second.shape[-1], dtype=first.dtype)
        # Into memory that is there, as ours.
        yield "bmm, out=", lambda: torch.bmm(first, second, out=output)
        yield "bmm", lambda: torch.bmm(first, second)

    def operands(self):
        first, second = self.tensors["first"], self.tensors["second"]
        return first, second.transpose(1, 2) if self.workload["transposed"] else second

    def batched_gemm_exact(self):
        first, second = self.operands()
        return torch.bmm(first.double(), second.double()), ...

    def softmax(self, rotation):
        x = self.tensors["input"]
        output = torch.empty_like(x)
        yield "softmax", lambda: torch.softmax(x, -1)
        yield "softmax, out=", lambda: torch.softmax(x, -1, out=output)

    def softmax_exact(self):
        return torch.softmax(self.tensors["input"].double(), -1), ...
