public import Attention
public import AttentionTestSupport

/// The inputs of a reference problem as tensors: query `[B, H, L, E]`, key `[B, Hk, S, E]`, value `[B, Hk, S, Ev]`.
public struct Inputs<Element: AttentionElement>: Sendable {
  public var query: Tensor<Element>
  public var key: Tensor<Element>
  public var value: Tensor<Element>

  public init(_ p: ReferenceAttention) throws {
    query = try Tensor(p.query.map { Element($0) }, shape: [p.B, p.H, p.L, p.E])
    key = try Tensor(p.key.map { Element($0) }, shape: [p.B, p.Hk, p.S, p.E])
    value = try Tensor(p.value.map { Element($0) }, shape: [p.B, p.Hk, p.S, p.Ev])
  }
}
