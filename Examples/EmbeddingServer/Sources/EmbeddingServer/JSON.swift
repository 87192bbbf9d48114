import Foundation
import Hummingbird

extension ByteBuffer {
  /// A small value as JSON on one line.
  init(json value: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    self.init(bytes: try encoder.encode(value))
  }
}

extension Response {
  /// An answer of one JSON object.
  init(status: HTTPResponse.Status = .ok, headers: HTTPFields = [:], json: ByteBuffer) {
    var headers = headers
    headers[.contentType] = "application/json"
    self.init(status: status, headers: headers, body: ResponseBody(byteBuffer: json))
  }
}
