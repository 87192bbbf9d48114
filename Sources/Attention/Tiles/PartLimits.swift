internal import AttentionTensors

/// How many BFloat16 parts the operands of products have, and which parts are multiplied: part i of one operand by
/// part j of the other if i + j is at most a limit.
///
/// One part is exact for BFloat16, two for Float16 and three for Float. Weights of operands of two bytes have two parts,
/// which gives them an error of at most 2⁻¹⁶ of each weight.
struct PartLimits {
  let query: Int
  let key: Int
  let weight: Int
  let value: Int
  /// The limit in products of weights and values.
  let results: Int
  /// The limit in products of queries and keys. What it leaves out of a product of two numbers of three parts is less than
  /// 2⁻²² of that product, and nothing of numbers of two parts.
  static var scores: Int { 2 }

  init<Element>(_ call: AttentionCall<Element>) {
    func count(_ operand: Operand) -> Int {
      if call.plan.precision == .bfloat16 { return 1 }
      return switch operand.half {
      case .bfloat16: 1
      case .float16: 2
      case nil: 3
      }
    }
    query = count(call.query)
    key = count(call.key)
    value = count(call.value)
    let isNative = call.query.half == nil || call.value.half == nil
    weight = call.plan.precision == .bfloat16 ? 1 : isNative ? 3 : 2
    results = weight - 1
  }

  /// The greatest size of an element of a query or a key: 2⁶⁴. Products of such numbers cannot overflow, and numbers that the
  /// unit takes as 0, below 2⁻¹²⁶, do not matter beside them in a score.
  static var greatestFactor: Double { 0x1p64 }
  /// The greatest size of a value: 2¹²⁶. Larger ones might be rounded to infinity.
  static var greatestValue: Double { 0x1p126 }

  static func isFactor<Element: AttentionElement>(_ x: Element) -> Bool { abs(x._double) <= greatestFactor }
  static func isValue<Element: AttentionElement>(_ x: Element) -> Bool { abs(x._double) <= greatestValue }
}
