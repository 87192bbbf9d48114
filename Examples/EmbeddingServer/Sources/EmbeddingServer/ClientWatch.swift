import Hummingbird
import NIOCore
import Synchronization

/// A request's context that knows the connection on which it came.
struct ConnectionContext: RequestContext {
  var coreContext: CoreRequestContextStorage
  let channel: any Channel

  init(source: ApplicationRequestContextSource) {
    coreContext = CoreRequestContextStorage(source: source)
    channel = source.channel
  }
}

/// Cancels what a client has asked for when it closes its connection; one of them sits in each connection's pipeline.
///
/// Hummingbird's `consumeWithCancellationOnInboundClose` does the same, but the connection ends with the answer; here it
/// serves the next request too. A client that closes only its sending side counts as gone: the two look alike.
final class ClientWatch: ChannelInboundHandler, RemovableChannelHandler, Sendable {
  typealias InboundIn = NIOAny

  private struct State {
    var isClosed = false
    /// Of the request that is being answered: there is one at a time, also where a client sends several at once.
    var cancel: (@Sendable () -> Void)?
  }
  private let state = Mutex(State())

  /// The watch of a connection.
  /// - Throws: `CancellationError` where the connection is gone, and its pipeline with it.
  static func of(_ channel: any Channel) async throws -> ClientWatch {
    do {
      return try await channel.pipeline.handler(type: ClientWatch.self).get()
    } catch is ChannelPipelineError {
      throw CancellationError()
    }
  }

  /// Runs `operation`, cancelled when the client closes the connection.
  func whileConnected<Value: Sendable>(_ operation: @escaping @Sendable () async throws -> Value) async throws -> Value
  {
    let task = Task { try await operation() }
    let isClosed = state.withLock { state in
      state.cancel = { task.cancel() }
      return state.isClosed
    }
    if isClosed { task.cancel() }
    defer { state.withLock { $0.cancel = nil } }
    return try await withTaskCancellationHandler {
      try await task.value
    } onCancel: {
      task.cancel()
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if event as? ChannelEvent == .inputClosed { close() }
    context.fireUserInboundEventTriggered(event)
  }

  func channelInactive(context: ChannelHandlerContext) {
    close()
    context.fireChannelInactive()
  }

  private func close() {
    let cancel = state.withLock { state in
      state.isClosed = true
      return state.cancel
    }
    cancel?()
  }
}
