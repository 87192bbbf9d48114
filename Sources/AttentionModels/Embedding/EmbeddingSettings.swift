internal import AttentionTensors
internal import Foundation

/// The settings in sentence-transformers' files for pooling, lengths, prompts and similarity.
struct EmbeddingSettings {
  var poolings = [Pooling.mean]
  /// Whether the tokens of a prompt are pooled too.
  var poolsPrompt = true
  var isNormalized = false
  /// The largest number of tokens of a text; nil: as many as the model has positions.
  var maximumLength: Int?
  /// Whether the tokenizer makes all letters small, whatever its own files say.
  var lowercases = false
  /// The number of columns of a vector that are kept; nil: all.
  var truncatedDimension: Int?
  var prompts = EmbeddingPrompts()
  /// The name of the similarity in the settings; nil: they name none.
  var similarityName: String?
  /// The path of the encoder's files inside the folder of the settings; empty: they are in that folder itself.
  var encoderPath = ""

  private struct Module: Decodable {
    let path: String?
    let type: String
  }
  private struct PoolingFile: Decodable {
    /// One name, or a list of names.
    struct Modes: Decodable {
      let names: [String]
      init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        names = try (try? container.decode([String].self)) ?? [container.decode(String.self)]
      }
    }
    let pooling_mode: Modes?
    let pooling_mode_cls_token: Bool?
    let pooling_mode_mean_tokens: Bool?
    let pooling_mode_max_tokens: Bool?
    let pooling_mode_mean_sqrt_len_tokens: Bool?
    let pooling_mode_weightedmean_tokens: Bool?
    let pooling_mode_lasttoken: Bool?
    let include_prompt: Bool?
  }
  private struct Lengths: Decodable {
    let max_seq_length: Double?
    let model_max_length: Double?
    /// The name of `model_max_length` in releases of transformers before 2.9.
    let max_len: Double?
    let do_lower_case: Bool?
  }
  private struct Model: Decodable {
    let prompts: [String: String?]?
    let default_prompt_name: String?
    let similarity_fn_name: String?
    let truncate_dim: Int?
  }

  /// The default settings: mean pooling, not normalised.
  init() {}

  /// Reads the settings. Without `modules.json`, pooling is the mean and vectors are not normalised, as in
  /// sentence-transformers.
  init(folder: ModelFolder) throws(AttentionError) {
    if let modules: [Module] = try folder.json("modules.json") { try read(modules, folder) }
    try readModel(folder)
    let encoder = ModelFolder(path: encoderPath.isEmpty ? folder.path : folder.path(encoderPath))
    try readLengths(encoder)
  }

  /// The paths of the modules that have a folder of their own inside of a model's folder.
  static func modulePaths(_ folder: ModelFolder) throws(AttentionError) -> [String] {
    let modules: [Module] = try folder.json("modules.json") ?? []
    return modules.compactMap(\.path).filter {
      !$0.isEmpty && !$0.hasPrefix("/") && !$0.split(separator: "/").contains("..")
    }
  }

  private mutating func read(_ modules: [Module], _ folder: ModelFolder) throws(AttentionError) {
    let path = folder.path("modules.json")
    var names: [String] = []
    for module in modules {
      let place = module.path ?? ""
      try requireFile(
        !place.hasPrefix("/") && !place.split(separator: "/").contains(".."), path,
        "paths inside of the folder expected; got \"\(place)\"")
      // Only the class name counts: in older and newer releases of sentence-transformers, different paths precede it.
      let name = module.type.split(separator: ".").last.map(String.init) ?? ""
      switch name {
      case "Transformer": encoderPath = place
      case "Normalize": isNormalized = true
      case "Pooling": try readPooling(folder, place.isEmpty ? "config.json" : "\(place)/config.json")
      default:
        throw AttentionError(
          .unsupported, path, "modules Transformer, Pooling and Normalize expected; got \"\(module.type)\"")
      }
      names.append(name)
    }
    // Only these two orders are supported. Other orders, or a module that occurs twice, would compute something else or
    // nothing.
    guard names == ["Transformer", "Pooling"] || names == ["Transformer", "Pooling", "Normalize"] else {
      throw AttentionError(
        .unsupported, path,
        "modules Transformer, Pooling and, at the end, Normalize expected; got \(names.isEmpty ? "none" : names.joined(separator: ", "))"
      )
    }
  }

  private mutating func readPooling(_ folder: ModelFolder, _ name: String) throws(AttentionError) {
    let path = folder.path(name)
    let file: PoolingFile = try folder.required(name)
    poolsPrompt = file.include_prompt ?? true
    let known: [String: Pooling] = [
      "mean": .mean, "cls": .cls, "max": .max, "mean_sqrt_len_tokens": .meanSquareRoot, "weightedmean": .weightedMean,
      "lasttoken": .lastToken,
    ]
    // Without `pooling_mode`, the flags of older releases count. If several flags are set, the pooled vectors follow
    // one another in this order.
    let flags = [
      ("cls", file.pooling_mode_cls_token), ("max", file.pooling_mode_max_tokens),
      ("mean", file.pooling_mode_mean_tokens), ("mean_sqrt_len_tokens", file.pooling_mode_mean_sqrt_len_tokens),
      ("weightedmean", file.pooling_mode_weightedmean_tokens), ("lasttoken", file.pooling_mode_lasttoken),
    ]
    poolings = try (file.pooling_mode?.names ?? flags.filter { $0.1 == true }.map(\.0)).map {
      name throws(AttentionError) in
      if let pooling = known[name] { return pooling }
      throw AttentionError(
        .unsupported, path,
        "pooling_mode one of \(known.keys.sorted().joined(separator: ", ")) expected; got \"\(name)\"")
    }
    guard !poolings.isEmpty else {
      throw AttentionError(.unsupported, path, "one way of pooling expected; got none")
    }
  }

  private mutating func readModel(_ folder: ModelFolder) throws(AttentionError) {
    let name = "config_sentence_transformers.json"
    guard let file: Model = try folder.json(name) else { return }
    let path = folder.path(name)
    prompts.texts = (file.prompts ?? [:]).mapValues { $0 ?? "" }
    prompts.defaultName = file.default_prompt_name
    if let own = file.default_prompt_name, prompts.texts[own] == nil {
      throw AttentionError(
        .invalidFile, path,
        "default_prompt_name: one of the prompts \(prompts.texts.keys.sorted()) expected; got \"\(own)\"")
    }
    similarityName = file.similarity_fn_name
    let similarities = ["cosine", "dot", "euclidean", "manhattan"]
    if let similarityName, !similarities.contains(similarityName) {
      throw AttentionError(
        .unsupported, path,
        "similarity_fn_name one of \(similarities.joined(separator: ", ")) expected; got \"\(similarityName)\"")
    }
    truncatedDimension = file.truncate_dim
    try requireFile(
      file.truncate_dim.map { $0 >= 1 } ?? true, path,
      "truncate_dim from 1 expected; got \(file.truncate_dim ?? 0)")
  }

  private mutating func readLengths(_ encoder: ModelFolder) throws(AttentionError) {
    // sentence-transformers has saved its settings under these names; it reads the first file that exists.
    let kinds = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"]
    let own = kinds.map { "sentence_\($0)_config.json" }.first(where: encoder.contains)
    for name in [own, "tokenizer_config.json"].compactMap({ $0 }) {
      guard let lengths: Lengths = try encoder.json(name) else { continue }
      if name == own, lengths.do_lower_case == true { lowercases = true }
      let all = [
        ("max_seq_length", lengths.max_seq_length), ("model_max_length", lengths.model_max_length),
        ("max_len", lengths.max_len),
      ]
      // Hugging Face writes 1e30 if there is no limit.
      guard maximumLength == nil, let (member, found) = all.first(where: { $0.1 != nil }), let length = found,
        length < 1e9
      else { continue }
      try requireFile(length >= 1, encoder.path(name), "\(member) from 1 expected; got \(length)")
      maximumLength = Int(length)
    }
  }
}
