import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import NIOHTTPTypesHTTP1

/// Follows the rules of HTTP that Hummingbird does not follow, because it does not see the version of a request.
///
/// - A client of HTTP/1.0 waits until the connection closes, unless it has asked to keep the connection. The
///   `Connection` field of the answer says which of the two happens.
/// - A client that sends `Expect: 100-continue` waits until the server asks for the body.
final class ConnectionRules: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias InboundOut = HTTPServerRequestPart
  typealias OutboundIn = HTTPServerResponsePart
  typealias OutboundOut = HTTPServerResponsePart

  /// The most bytes of a body that the server asks for. If a body is longer, the client gets only the answer that says
  /// so.
  private let bodyLimit: Int
  /// The value for the answer's `Connection` field; nil if the field is left as it is.
  private var connection: String?

  init(bodyLimit: Int) { self.bodyLimit = bodyLimit }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard case .head(var head) = unwrapInboundIn(data) else { return context.fireChannelRead(data) }
    let isOlder = head.version == .http1_0 || head.version == .http0_9
    connection = isOlder ? (head.isKeepAlive ? "keep-alive" : "close") : nil
    // Hummingbird closes the connection after its answer to a request that has this field.
    if connection == "close" { head.headers.replaceOrAdd(name: "connection", value: "close") }
    let waits = head.headers[canonicalForm: "expect"].contains { $0.lowercased() == "100-continue" }
    let length = head.headers.first(name: "content-length").flatMap { Int($0) } ?? 0
    if waits, !isOlder, length <= bodyLimit {
      let go = HTTPServerResponsePart.head(HTTPResponseHead(version: .http1_1, status: .continue))
      context.writeAndFlush(wrapOutboundOut(go), promise: nil)
    }
    context.fireChannelRead(wrapInboundOut(.head(head)))
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard case .head(var head) = unwrapOutboundIn(data), let connection else {
      return context.write(data, promise: promise)
    }
    head.headers.replaceOrAdd(name: "connection", value: connection)
    context.write(wrapOutboundOut(.head(head)), promise: promise)
  }
}

/// Adds ``ConnectionRules`` to the pipeline before the codec that drops the version of HTTP.
final class ConnectionRulesInstaller: ChannelInboundHandler, RemovableChannelHandler, Sendable {
  typealias InboundIn = HTTPRequestPart
  private let bodyLimit: Int

  init(bodyLimit: Int) { self.bodyLimit = bodyLimit }

  func handlerAdded(context: ChannelHandlerContext) {
    do {
      let pipeline = context.pipeline.syncOperations
      try pipeline.addHandler(
        ConnectionRules(bodyLimit: bodyLimit), position: .before(pipeline.handler(type: HTTP1ToHTTPServerCodec.self)))
    } catch {
      context.fireErrorCaught(error)
    }
  }
}
