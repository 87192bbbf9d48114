internal import AttentionTensors

/// The extents of a BERT encoder, as in `config.json`.
public struct BertConfiguration: Sendable, Hashable {
  /// d: the dimension of hidden states.
  public var hiddenDimension: Int
  /// The number of layers.
  public var layerCount: Int
  /// H: the number of heads.
  public var headCount: Int
  /// The dimension between the two matrix products of a feed-forward part.
  public var intermediateDimension: Int
  /// The number of tokens in the vocabulary.
  public var vocabularySize: Int
  /// The number of positions, which is the largest number of tokens of a text.
  public var positionCount: Int
  /// The number of token types; only type 0 is used.
  public var typeCount: Int
  /// The function after the first product of a feed-forward part.
  public var activation: Activation
  /// ε of the layer norms.
  public var normEpsilon: Double

  /// A configuration. Positions, types, activation and ε are BERT's usual ones by default.
  public init(
    hiddenDimension: Int, layerCount: Int, headCount: Int, intermediateDimension: Int, vocabularySize: Int,
    positionCount: Int = 512, typeCount: Int = 2, activation: Activation = .gelu, normEpsilon: Double = 1e-12
  ) {
    self.hiddenDimension = hiddenDimension
    self.layerCount = layerCount
    self.headCount = headCount
    self.intermediateDimension = intermediateDimension
    self.vocabularySize = vocabularySize
    self.positionCount = positionCount
    self.typeCount = typeCount
    self.activation = activation
    self.normEpsilon = normEpsilon
  }

  /// Checks the extents before memory is allocated.
  func check(_ subject: String) throws(AttentionError) {
    let extents = [
      ("hidden_size", hiddenDimension), ("num_attention_heads", headCount),
      ("intermediate_size", intermediateDimension),
      ("vocab_size", vocabularySize), ("max_position_embeddings", positionCount), ("type_vocab_size", typeCount),
    ]
    for (name, extent) in extents {
      try requireFile((1...Self.extentLimit).contains(extent), subject, "\(name) from 1 expected; got \(extent)")
    }
    try requireFile(
      (0...Self.layerLimit).contains(layerCount), subject,
      "num_hidden_layers from 0 to \(Self.layerLimit) expected; got \(layerCount)")
    try requireFile(
      hiddenDimension % headCount == 0, subject,
      "a hidden_size that divides by num_attention_heads expected; got \(hiddenDimension) and \(headCount)")
    try requireFile(
      normEpsilon >= 0 && normEpsilon.isFinite, subject, "layer_norm_eps from 0 expected; got \(normEpsilon)")
  }

  private static let extentLimit = 1 << 24
  private static let layerLimit = 1000
}

extension BertConfiguration {
  private struct File: Decodable {
    let model_type: String?
    let hidden_size: Int
    let num_hidden_layers: Int
    let num_attention_heads: Int
    let intermediate_size: Int
    let vocab_size: Int
    let max_position_embeddings: Int
    let type_vocab_size: Int?
    let hidden_act: String?
    let layer_norm_eps: Double?
    let position_embedding_type: String?
    let is_decoder: Bool?
  }

  /// The configuration in the folder's `config.json`.
  init(folder: ModelFolder) throws(AttentionError) {
    let path = folder.path("config.json")
    let file: File = try folder.required("config.json")
    guard file.model_type ?? "bert" == "bert" else {
      throw AttentionError(.unsupported, path, "model_type \"bert\" expected; got \"\(file.model_type!)\"")
    }
    guard file.position_embedding_type ?? "absolute" == "absolute" else {
      throw AttentionError(
        .unsupported, path, "position_embedding_type \"absolute\" expected; got \"\(file.position_embedding_type!)\"")
    }
    guard file.is_decoder != true else {
      throw AttentionError(.unsupported, path, "an encoder expected; is_decoder is true")
    }
    let activations: [String: Activation] = [
      "gelu": .gelu, "relu": .relu, "gelu_new": .geluTanh, "gelu_pytorch_tanh": .geluTanh, "silu": .silu,
      "swish": .silu,
    ]
    let name = file.hidden_act ?? "gelu"
    guard let activation = activations[name] else {
      throw AttentionError(
        .unsupported, path,
        "hidden_act one of \(activations.keys.sorted().joined(separator: ", ")) expected; got \"\(name)\"")
    }
    self.init(
      hiddenDimension: file.hidden_size, layerCount: file.num_hidden_layers, headCount: file.num_attention_heads,
      intermediateDimension: file.intermediate_size, vocabularySize: file.vocab_size,
      positionCount: file.max_position_embeddings, typeCount: file.type_vocab_size ?? 2, activation: activation,
      normEpsilon: file.layer_norm_eps ?? 1e-12)
    try check(path)
  }
}

/// Throws `.invalidFile` for `subject` unless `condition` holds.
func requireFile(
  _ condition: Bool, _ subject: @autoclosure () -> String, _ message: @autoclosure () -> String
) throws(AttentionError) {
  if !condition { throw AttentionError(.invalidFile, subject(), message()) }
}
