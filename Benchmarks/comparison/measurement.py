"""Measures rows: this library and its peers in turn, round by round, on the same inputs, with their results compared."""

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack

from .processes import Program
from .tensor_file import read_tensors

HERE = os.path.dirname(os.path.abspath(__file__))
SENTENCES = dict(file=os.path.join(HERE, "..", "..", "Examples", "Data", "sentences.txt"), every=4)
DEFAULTS = dict(batch=1, heads=1, mask="none", dtype="f32", transposed=False, window=None) | {"pass": "forward"}
# How long each way that a peer has is tried, once it is warm.
TRIAL_SECONDS = 0.3
# Ways that took at most this much more than the fastest are all measured; the fastest of the rounds is the peer.
CLOSE = 1.2
# How far results may lie apart, as a share of the largest: beyond it both sides do not compute the same.
LIMITS = dict(f32=1e-4, f64=1e-12, bf16=0.02)

# Not in workloads.json, for their requests have other fields and their peers are programs. The aims are 1.5 and 1.1 times as many
# sentences a second, and 0.6 of the latency.
EMBEDDINGS = {entry["name"]: entry for entry in [
    dict(name=f"embed-{count}-{peer}", about=f"{about}, against {title}", aim=aims[single], peer=peer, single=single)
    for single, (count, about) in enumerate([("512", "512 sentences"), ("one", "one sentence")])
    for peer, title, aims in [
        ("st", "sentence-transformers", (0.667, 0.6)), ("ort", "ONNX Runtime", (0.909, None)), ("ov", "OpenVINO", (None, None))]
]}


def alternate(rounds, sides):
    """Seconds of each side, a median a round. `sides`: by name, what gives the seconds of some calls in a row.

    After each switch 20 ms pass, and the first call is dropped if there are several, for the other side's threads spin a while.
    """
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            time.sleep(0.02)
            seconds[name].append(settled(side()))
    return seconds


def settled(seconds):
    """The median of some calls in a row, without the first one if there are several."""
    return statistics.median(seconds[1:] or seconds)


def quartiles(numbers):
    if len(numbers) < 3:
        return min(numbers), max(numbers)
    low, _, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return low, high


def against(ours, theirs):
    """Medians, and what a row says of them: the median of the rounds' ratios and its quartiles."""
    ratios = [a / b for a, b in zip(ours, theirs)]
    low, high = quartiles(ratios)
    return dict(ours=statistics.median(ours), theirs=statistics.median(theirs), ratio=statistics.median(ratios), low=low, high=high)


def rotation(w, cache_bytes):
    """Caches to use in turn, so that none is in the last-level cache when its turn comes; 1 for other rows.

    The others are four times as large as that cache: it does not forget the oldest first, and at twice its size still
    gives a fifth of what is read.
    """
    if w["op"] != "sdpa" or w["queries"] > 1:
        return 1
    pair = (2 if w["dtype"] == "bf16" else 4) * w["batch"] * w.get("kv_heads", w["heads"]) * w["keys"] * 2 * w["width"]
    return 4 * cache_bytes // pair + 2


def peak(machine, dtype, threads):
    """Of the threads together; a vector holds half as many Doubles."""
    return machine["fma_peak_gflops" if threads == 1 else "fma_peak_all_gflops"] / (2 if dtype == "f64" else 1)


def iteration_count(once, turns=1):
    """Long enough to time, short enough to alternate; each cache is used at least once."""
    return max(2, turns, min(200, int(0.1 / once))) + 1


def measure(entry, runner, other, machine, threads, rounds):
    """One row, or the reason why there is none yet."""
    w = DEFAULTS | entry["request"]
    turns = rotation(w, machine["last_level_cache_bytes"])
    request = dict(entry["request"], threads=threads, seed=1, rotation=turns, fresh=True)
    row = dict(name=entry["name"], about=entry["about"], aim=entry["aim"], neighbour=entry.get("neighbour", False), own="peer" in entry,
               op=w["op"], dtype=w["dtype"], queries=w["queries"])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tensors.safetensors")
        first = runner.ask(**request, iterations=2, save=path)
        if "error" in first:
            # The runner is asked for everything: a row begins to be measured on the day that it can.
            return row | dict(note=first["error"].split(";")[0].replace(" is not present", ""))
        tensors = {} if row["own"] else read_tensors(path)
    answers = []

    def ours():
        answers.append(runner.ask(**request, iterations=iteration_count(statistics.median(first["seconds"]), turns)))
        return answers[-1]["seconds"]

    sides = dict(ours=ours)
    if row["own"]:
        asked = request | entry["peer"]
        once = statistics.median(other.seconds(**asked, iterations=3))
        theirs = other.ask(**asked, iterations=1)["operations"]
        sides["peer"] = lambda: other.seconds(**asked, iterations=iteration_count(once, turns))
        seconds = alternate(rounds, sides)
        row |= against(seconds["ours"], seconds["peer"])
    else:
        from .torch_peer import TorchPeer
        peer = TorchPeer(w, tensors, threads, turns)
        errors, difference = compared(peer, tensors["output"], w["dtype"], entry["name"])
        tried, failed = trials(peer)
        fastest = min(tried.values())
        for name in dict.fromkeys([peer.usual, *(name for name in tried if tried[name] <= CLOSE * fastest)]):
            count = iteration_count(tried[name], turns)
            sides[name] = lambda name=name, count=count: peer.seconds(name, count)
        seconds = alternate(rounds, sides)
        ways = {name: against(seconds["ours"], seconds[name]) | dict(peer=name) for name in sides if name != "ours"}
        best = max(ways, key=lambda name: ways[name]["ratio"])
        row |= ways[best] | dict(usual=ways[peer.usual], tried=tried, failed=failed, error=errors["ours"], peer_error=errors[best], difference=difference)
        theirs = answers[-1]["operations"]
    gflops = answers[-1]["operations"] / row["ours"] * 1e-9
    limit = peak(machine, w["dtype"], threads)
    row |= dict(gflops=gflops, share=gflops / limit, peer_share=theirs / row["theirs"] * 1e-9 / limit)
    reads = [answer for answer in answers if answer.get("read_gbps")]
    if reads:
        row["read_gbps"] = statistics.median(answer["read_gbps"] for answer in reads)
        row["read_share"] = statistics.median(answer["read_gbps"] / answer["read_limit_gbps"] for answer in reads)
        row["peer_read_share"] = row["read_share"] * row["ours"] / row["theirs"]
    return row


def trials(peer):
    """Seconds of each way that the peer has, and why some have none."""
    tried, failed = {}, {}
    for name in peer.ways:
        try:
            once = peer.seconds(name, 2)[-1]
            tried[name] = statistics.median(peer.seconds(name, max(2, min(2000, int(TRIAL_SECONDS / once)))))
        except Exception as error:
            failed[name] = (str(error) or type(error).__name__).strip().split("\n")[0][:200]
            if name == peer.usual:
                raise
    return tried, failed


def compared(peer, output, dtype, name):
    """The errors of our result and of each way's against Double, by name, in the rows that are sampled; and the largest difference
    between any way's whole result and ours."""
    exact, index = peer.exact()

    def error(x):
        return (x[index].double() - exact).abs().max().item()

    difference = 0
    errors = dict(ours=error(output))
    for way in peer.ways:
        try:
            result = peer.result(way)
        except Exception:
            # Told by the trials.
            continue
        errors[way] = error(result)
        apart = (result.double() - output.double()).abs().max().item()
        if not apart <= LIMITS[dtype] * exact.abs().max().item():
            raise SystemExit(f"{name}: \"{way}\" and this library differ by {apart}: they do not compute the same")
        difference = max(difference, apart)
    return errors, difference


def measure_embeddings(entries, runner_path, machine, threads, rounds):
    """The rows of one kind, all sentences or one at a time: this library and all its peers in turn."""
    single = entries[0]["single"]
    # Sixty-four sentences a round, the next ones each time: eight rounds are all of them. All sentences take seconds.
    iterations = 64 if single else 1
    request = dict(SENTENCES, threads=threads, single=bool(single))
    rows = {entry["peer"]: dict(
        name=entry["name"], about=entry["about"], aim=entry["aim"], neighbour=False, own=False, embeds=True, single=bool(single),
        threads=threads) for entry in entries}
    with ExitStack() as stack:
        # All sides count their calls from the start of their process, and so stay in step.
        runner = stack.enter_context(Program(runner_path))
        peers, facts, asked, best = {}, {}, {}, {}
        for kind, row in rows.items():
            tried = {}
            # A batch of one is a batch of one.
            for size in [16] if single else [8, 16, 32]:
                peer = stack.enter_context(Program(sys.executable, os.path.join(HERE, "embedding_peers.py")))
                asked[kind, size] = request | dict(peer=kind, batch=size, cache=os.path.join(HERE, "..", ".build", "onnx"))
                answer = peer.ask(**asked[kind, size], iterations=iterations)
                if "error" in answer:
                    row |= dict(note=f"its peer: {answer['error']}"[:200], state="no peer")
                    break
                facts[kind] = answer
                peers[kind, size] = peer
                tried[size] = min(answer["seconds"])
            if tried:
                best[kind] = min(tried, key=tried.get)
                if not single:
                    row["tried"] = {f"batches of {size}": seconds for size, seconds in tried.items()}
        if not facts:
            return list(rows.values())
        ask = request | dict(op="embed", model=next(iter(facts.values()))["model"], iterations=iterations)
        first = runner.ask(**ask)
        if "error" in first:
            return [row | dict(note=first["error"].split(";")[0]) for row in rows.values()]
        answers = []

        def ours():
            answers.append(runner.ask(**ask))
            return answers[-1]["seconds"]

        sides = dict(ours=ours) | {
            kind: lambda kind=kind, size=size: peers[kind, size].seconds(**asked[kind, size], iterations=iterations)
            for kind, size in best.items()}
        seconds = alternate(rounds, sides)
        # Of the median sentence where it is one: its operations and its time.
        gflops = statistics.median(
            answer["operations"] / settled(answer["seconds"]) for answer in answers) * 1e-9
        share = gflops / peak(machine, "f32", threads)
        for kind in best:
            theirs = facts[kind]
            difference = max(
                abs(a - b) for pair in zip(first["vectors"], theirs["vectors"], strict=True) for a, b in zip(*pair, strict=True))
            if not difference <= 1e-4:
                raise SystemExit(f"{rows[kind]['name']}: both sides' vectors differ by {difference}")
            row = rows[kind] | against(seconds["ours"], seconds[kind])
            rows[kind] = row | dict(
                peer=f"{theirs['name']} {theirs['version']}" + ("" if single else f", batches of {best[kind]}"), sentences=theirs["sentences"], tokens=first["tokens"],
                peer_tokens=theirs["tokens"], gflops=gflops, share=share, peer_share=share * row["ours"] / row["theirs"],
                difference=difference)
    return list(rows.values())
