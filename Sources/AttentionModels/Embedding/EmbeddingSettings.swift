internal import AttentionTensors
internal import Foundation

/// What sentence-transformers' files say of pooling and lengths.
struct EmbeddingSettings {
  var pooling = Pooling.mean
  var isNormalized = false
  /// Tokens of a text at most; nil: as many as the model has positions.
  var maximumLength: Int?
  /// Where the encoder's files lie in the folder; empty: beside the settings.
  var encoderPath = ""

  private struct Module: Decodable {
    let path: String?
    let type: String
  }
  private struct PoolingFile: Decodable {
    let pooling_mode: String?
    let pooling_mode_cls_token: Bool?
    let pooling_mode_mean_tokens: Bool?
    let pooling_mode_max_tokens: Bool?
    let pooling_mode_mean_sqrt_len_tokens: Bool?
  }
  private struct Lengths: Decodable {
    let max_seq_length: Double?
    let model_max_length: Double?
  }

  /// Without `modules.json`: the mean, not normalised, as sentence-transformers takes a plain model.
  init(folder: ModelFolder) throws(AttentionError) {
    let path = folder.path("modules.json")
    let modules: [Module] = try folder.json("modules.json") ?? []
    for module in modules {
      let place = module.path ?? ""
      try requireFile(
        !place.hasPrefix("/") && !place.split(separator: "/").contains(".."), path,
        "paths inside of the folder expected; got \"\(place)\"")
      // Older and newer releases have other paths before the name.
      switch module.type.split(separator: ".").last {
      case "Transformer": encoderPath = place
      case "Normalize": isNormalized = true
      case "Pooling":
        let name = place.isEmpty ? "config.json" : "\(place)/config.json"
        pooling = try Self.pooling(folder.required(name), folder.path(name))
      default:
        throw AttentionError(
          .unsupported, path, "modules Transformer, Pooling and Normalize expected; got \"\(module.type)\"")
      }
    }
    let encoder = ModelFolder(path: encoderPath.isEmpty ? folder.path : folder.path(encoderPath))
    for name in ["sentence_bert_config.json", "tokenizer_config.json"] where maximumLength == nil {
      let lengths: Lengths? = try encoder.json(name)
      // Hugging Face writes 1e30 where it has no limit.
      guard let length = lengths?.max_seq_length ?? lengths?.model_max_length, length < 1e9 else { continue }
      try requireFile(
        length >= 1, encoder.path(name),
        "\(lengths?.max_seq_length == nil ? "model_max_length" : "max_seq_length") from 1 expected; got \(length)")
      maximumLength = Int(length)
    }
  }

  private static func pooling(_ file: PoolingFile, _ path: String) throws(AttentionError) -> Pooling {
    let names: [String: Pooling] = [
      "mean": .mean, "cls": .cls, "max": .max, "mean_sqrt_len_tokens": .meanSquareRoot,
    ]
    if let name = file.pooling_mode {
      guard let pooling = names[name] else {
        throw AttentionError(
          .unsupported, path,
          "pooling_mode one of \(names.keys.sorted().joined(separator: ", ")) expected; got \"\(name)\"")
      }
      return pooling
    }
    let modes: [(Bool?, Pooling)] = [
      (file.pooling_mode_cls_token, .cls), (file.pooling_mode_mean_tokens, .mean),
      (file.pooling_mode_max_tokens, .max), (file.pooling_mode_mean_sqrt_len_tokens, .meanSquareRoot),
    ]
    let chosen = modes.filter { $0.0 == true }.map(\.1)
    guard chosen.count == 1 else {
      throw AttentionError(
        .unsupported, path, "one way of pooling expected; got \(chosen.map(\.rawValue).joined(separator: ", "))")
    }
    return chosen[0]
  }
}
