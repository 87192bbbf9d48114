"""Tables, the README's summary and the charts, made from the results of all machines: Results/*.json."""

import functools
import json
import math
import os
import statistics
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = os.path.join(HERE, "..", "Results")

# Families and models by which CPUs tell what they are.
KINDS = {
    ("AuthenticAMD", 23, 49): "zen2", ("AuthenticAMD", 25, 1): "zen3", ("AuthenticAMD", 25, 17): "zen4", ("AuthenticAMD", 25, 160): "zen4",
    ("AuthenticAMD", 26, 2): "zen5", ("AuthenticAMD", 26, 17): "zen5",
    ("GenuineIntel", 6, 79): "broadwell", ("GenuineIntel", 6, 85): {4: "skylake", 5: "cascadelake", 6: "cascadelake", 7: "cascadelake", 10: "cooperlake", 11: "cooperlake"},
    ("GenuineIntel", 6, 106): "icelake",
    ("GenuineIntel", 6, 143): "sapphirerapids", ("GenuineIntel", 6, 207): "emeraldrapids", ("GenuineIntel", 6, 173): "graniterapids",
}
TITLES = dict(
    zen2="AMD Zen 2", zen3="AMD Zen 3", zen4="AMD Zen 4", zen5="AMD Zen 5", broadwell="Intel Broadwell", skylake="Intel Skylake", cooperlake="Intel Cooper Lake", cascadelake="Intel Cascade Lake",
    icelake="Intel Ice Lake", sapphirerapids="Intel Sapphire Rapids", emeraldrapids="Intel Emerald Rapids", graniterapids="Intel Granite Rapids")


def machine_kind():
    """What this machine's results are called; None where the CPU is none of those known."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line.split(":", 1) for line in file if ":" in line]
    except OSError:
        return None
    facts = {}
    for name, value in lines:
        facts.setdefault(name.strip(), value.strip())
    try:
        kind = KINDS.get((facts["vendor_id"], int(facts["cpu family"]), int(facts["model"])))
        return kind.get(int(facts["stepping"])) if isinstance(kind, dict) else kind
    except (KeyError, ValueError):
        return None


def milliseconds(seconds):
    value = 1e3 * seconds
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def percent(x):
    return f"{100 * x:.0f}"


def share(row):
    if "read_share" in row:
        return f"{row['read_gbps']:.0f} GB/s, {percent(row['read_share'])} % of reading"
    return f"{percent(row['share'])} %"


def peer_share(row):
    if "read_share" in row:
        return f"{percent(row['peer_read_share'])} % of reading"
    return f"{percent(row['peer_share'])} %"


HEAD = ["workload", "ours ms", "peer ms", "ratio", "quartiles", "aim", "ours, of the peak", "peer", "our error", "peer's", "the peer's best way", "usual way"]
WIDTHS = [-16, 9, 9, 6, 11, 6, 26, 18, 9, 9, -34, -12]


def cells(row):
    if "note" in row:
        return [row["name"], row.get("state", "not yet"), "", "", "", "", "needs " + row["note"], "", "", "", "", ""]
    errors = [f"{row[name]:.1e}" if row.get(name) is not None else "–" for name in ("error", "peer_error")]
    usual = row.get("usual")
    is_usual = not usual or usual["peer"] == row["peer"]
    return [row["name"], milliseconds(row["ours"]), milliseconds(row["theirs"]), f"{row['ratio']:.2f}",
            f"{row['low']:.2f}–{row['high']:.2f}", f"{row['aim']:.2f}" if row["aim"] else "–", share(row), peer_share(row), *errors,
            row.get("peer") or "", "the same" if is_usual and usual else f"{usual['ratio']:.2f}: {usual['peer']}" if usual else ""]


def printed(texts):
    return " ".join(t.ljust(-w) if w < 0 else t.rjust(w) for t, w in zip(texts, WIDTHS)).rstrip()


def yardsticks(machine):
    return (f"FMA peak {machine['fma_peak_gflops']:.0f} GFLOP/s on one thread, {machine['fma_peak_all_gflops']:.0f} on all, sgemm 2048³ {machine['sgemm_2048_gflops']:.0f} "
            f"({percent(machine['sgemm_share_of_peak'])} % of it), memory read at {machine['read_ram_gbps']:.0f} GB/s")


def markdown(head, lines):
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(line) + " |" for line in lines)]


def table(rows):
    lines = []
    for row in rows:
        texts = cells(row)
        if "note" not in row:
            texts[3] = f"**{texts[3]}**"
        lines.append([texts[0], row["about"], *texts[1:]])
    return markdown([HEAD[0], "what", *HEAD[1:]], lines)


def embedding_table(rows):
    """Of all counts of threads: sentences a second where they come together, milliseconds where they come alone."""
    head = ["workload", "threads", "what", "ours", "peer", "ratio", "quartiles", "aim", "ours, of the peak", "peer", "difference", "the peer"]
    lines = []
    for row in rows:
        texts = cells(row)[:8]
        if "note" in row:
            texts += ["", ""]
        else:
            def speed(seconds):
                return f"{milliseconds(seconds)} ms" if row["single"] else f"{row['sentences'] / seconds:.0f} sentences/s"
            texts[1:4] = speed(row["ours"]), speed(row["theirs"]), f"**{texts[3]}**"
            texts += [f"{row['difference']:.1e}", row["peer"]]
        lines.append([texts[0], str(row["threads"]), row["about"], *texts[1:]])
    return markdown(head, lines)


def is_embedding(row):
    return row.get("embeds", False)


def write_machine(result):
    """Results/NAME.md, of one machine."""
    tables = [(entry["threads"], entry["rows"]) for entry in result["tables"]]
    machine, rounds = result["machine"], result["rounds"]
    spread = "quartiles beside" if result["spread"] == "quartiles" else "least and greatest beside"
    lines = [
        f"# {result['title']} against PyTorch", "",
        f"{result['date']}, {result['description']}; {rounds} alternating rounds, medians of their ratios, {spread}. In the same run: {yardsticks(machine)}.", "",
    ]
    if result.get("remark"):
        lines += [result["remark"], ""]
    for index, (threads, rows) in enumerate(tables):
        lines += [f"## On {threads} thread{'s' if threads > 1 else ''}", "", *table([row for row in rows if not row["own"] and not is_embedding(row)]), ""]
        if index == 0:
            lines += ["## What masks and caches cost", "", *table([row for row in rows if row["own"]]), ""]
    embedded = [row for _, rows in tables for row in rows if is_embedding(row)]
    if embedded:
        lines += ["## Sentence embeddings", "", *embedding_table(embedded), ""]
        measured = next((row for row in embedded if "note" not in row), None)
        if measured:
            lines += [f"all-MiniLM-L6-v2 in float32, from text to vector, on {measured['sentences']} sentences of {measured['tokens']:,} tokens in all.", ""]
    lines += [
        "Ratios are of times; below 1 this library is faster. The peer is PyTorch; where masks and caches are compared, this library; where sentences are embedded, the one that the row names. "
        "How this is measured, and what the columns say: [README](../README.md).", ""]
    with open(os.path.join(RESULTS, f"{result['name']}.md"), "w") as file:
        file.write("\n".join(lines))


@functools.cache
def results():
    """Of all machines, by the speed of their CPUs."""
    found = []
    for name in sorted(os.listdir(RESULTS)):
        if name.endswith(".json"):
            with open(os.path.join(RESULTS, name)) as file:
                found.append(json.load(file))
    return sorted(found, key=lambda result: result["machine"]["fma_peak_gflops"], reverse=True)


def is_dense(row):
    """The rows of which means are taken: attention in Float without a window, forward, of more than one query."""
    return row.get("op") == "sdpa" and row.get("dtype") == "f32" and row.get("queries", 0) > 8 and "window" not in row["about"] \
        and not row["neighbour"] and not row["own"] and "note" not in row


def geometric_mean(numbers):
    return math.exp(statistics.fmean(math.log(x) for x in numbers))


def main_rows(result):
    return {row["name"]: row for row in result["tables"][0]["rows"]}


def shown(row):
    # The neighbours show that no constant is tuned to one shape; the summary does without them.
    return not row["neighbour"] and not row["own"]


def is_current(result):
    return result["spread"] == "quartiles"


def mark(result):
    """What is put behind the name of a machine that was measured before PyTorch's other ways were tried."""
    return "" if is_current(result) else " †"


def is_best(result, row):
    """False where another way than the usual call was more than 5 percent faster on some machine, and was not tried on this one."""
    if is_current(result):
        return True
    for other in results():
        found = main_rows(other).get(row["name"])
        if is_current(other) and found and "usual" in found and found["ratio"] > 1.05 * found["usual"]["ratio"]:
            return False
    return True


def cell(result, row):
    if row is None or "note" not in row and not is_best(result, row):
        return "–"
    if "note" in row:
        return row.get("state", "not yet")
    ours, theirs, unit = (row["read_share"], row["peer_read_share"], " r") if "read_share" in row else (row["share"], row["peer_share"], "")
    return f"**{row['ratio']:.2f}** ({percent(ours)} : {percent(theirs)}{unit})"


def summary(found):
    """Rows × machines: the ratio, and both sides' percent of the peak."""
    names = {}
    for result in found:
        for row in result["tables"][0]["rows"]:
            if shown(row):
                names.setdefault(row["name"], row)
    head = ["workload", *(result["title"] + mark(result) for result in found)]
    lines = [[f"{name}: {row['about'].split('; aim')[0]}", *(cell(result, main_rows(result).get(name)) for result in found)] for name, row in names.items()]
    means = ["**geometric mean of the 13 dense rows**"]
    for result in found:
        if not is_current(result):
            # Of rows against the usual call alone it would say too much.
            means.append("–")
            continue
        dense = [row for row in result["tables"][0]["rows"] if is_dense(row)]
        means.append(f"**{geometric_mean([row['ratio'] for row in dense]):.2f}** ({percent(geometric_mean([row['share'] for row in dense]))} : "
                     f"{percent(geometric_mean([row['peer_share'] for row in dense]))})")
    return markdown(head, [*lines, means])


def losses(found):
    """One line for each row, of any table, in which the peer is faster."""
    lines = []
    for result in found:
        for entry in result["tables"]:
            for row in entry["rows"]:
                if "note" in row or row["own"]:
                    continue
                if row["ratio"] > 1:
                    lines.append(f"{row['name']} {row['ratio']:.2f} ({result['title']}, {entry['threads']} thread{'s' if entry['threads'] > 1 else ''})")
    return lines


def description(found):
    lines = []
    for result in found:
        machine = result["machine"]
        lines.append(
            f"- [{result['title']}](LINK/{result['name']}.md), {result['date']}, {result['rounds']} rounds{mark(result)}: "
            f"{result['description']}; FMA peak {machine['fma_peak_gflops']:.0f} GFLOP/s on one thread, {machine['fma_peak_all_gflops']:.0f} on two, memory read at "
            f"{machine['read_ram_gbps']:.0f} GB/s")
    return lines


def write_summary(runner):
    """The README's part between its marks, and the chart of all machines."""
    found = results()
    old = any(not is_current(result) for result in found)
    lost = losses(found)
    lines = [
        "Time over the peer's time on two threads, the peer's best way of those tried, and in parentheses both sides' percent of this CPU's FMA peak (r: percent of the rate "
        "at which memory is read). Peers are PyTorch 2.13 and, where sentences are embedded, the one that the row names.", "",
        *summary(found), "",
        *(line.replace("LINK", "Benchmarks/Results") for line in description(found)), "",
    ]
    if old:
        lines += [
            "† Measured in fewer rounds, against the usual call only, on inputs of each side's own, by an older version of this library. A row is left out (–) where, on "
            "another machine, another way was more than 5 % faster; what the usual call took stands in the machine's file. The others may gain as much for the peer.", ""]
    lines += [f"The peer is faster in these rows of the machines' tables: {'; '.join(lost)}." if lost else "In no row of any table is the peer faster.", ""]
    path = os.path.join(HERE, "..", "..", "README.md")
    with open(path) as file:
        before, rest = file.read().split("<!-- results -->\n")
    after = rest.split("<!-- end of results -->")[1]
    with open(path, "w") as file:
        file.write(before + "<!-- results -->\n" + "\n".join(lines) + "<!-- end of results -->" + after)
    names = list(dict.fromkeys(
        name for result in found for name, row in main_rows(result).items() if shown(row) and not is_embedding(row) and "note" not in row))
    groups = []
    for name in names:
        rows = [main_rows(result).get(name) for result in found]
        rows = [row if row and "ratio" in row and is_best(result, row) else {} for result, row in zip(found, rows)]
        groups.append(dict(label=name, values=[row.get("ratio") for row in rows], notes=[f"{row['ratio']:.2f}" if row else "–" for row in rows]))
    chart = dict(
        title="Time against PyTorch: shorter is faster", subtitle="On two threads, PyTorch's best way of those tried" + ("; †: measured against the usual call only" if old else ""),
        series=[f"{result['title']}, {result['machine']['isa']}{mark(result)}" for result in found], mark=dict(value=1, label="PyTorch"), groups=groups)
    subprocess.run([runner, "chart", "--output", os.path.join(HERE, "..", "results.svg")], input=json.dumps(chart), text=True, check=True)


def write(result, runner):
    results.cache_clear()
    os.makedirs(RESULTS, exist_ok=True)
    with open(os.path.join(RESULTS, f"{result['name']}.json"), "w") as file:
        json.dump(result, file, indent=1, ensure_ascii=False)
        file.write("\n")
    write_machine(result)
    write_summary(runner)
