import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import NIOHTTPTypesHTTP1

/// What a connection owes its client beside answers, and Hummingbird does not do: it sees no versions.
///
/// - A client of HTTP/1.0 waits for the connection to close, unless it has asked for another one after the answer, and is told.
/// - A client that sends `Expect: 100-continue` waits to be told before it sends the body.
final class ConnectionRules: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias InboundOut = HTTPServerRequestPart
  typealias OutboundIn = HTTPServerResponsePart
  typealias OutboundOut = HTTPServerResponsePart

  /// Bodies beyond are not asked for: the answer tells why.
  private let bodyLimit: Int
  /// What the answer's `Connection` field must say; nil: nothing.
  private var connection: String?

  init(bodyLimit: Int) { self.bodyLimit = bodyLimit }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard case .head(var head) = unwrapInboundIn(data) else { return context.fireChannelRead(data) }
    let isOlder = head.version == .http1_0 || head.version == .http0_9
    connection = isOlder ? (head.isKeepAlive ? "keep-alive" : "close") : nil
    // Hummingbird closes the connection after the answer to such a request.
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

/// Puts ``ConnectionRules`` before the codec behind which versions are forgotten.
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
