import Hummingbird
import NIOCore
import Synchronization

/// The context of a request. It knows the connection on which the request came.
struct ConnectionContext: RequestContext {
  var coreContext: CoreRequestContextStorage
  let channel: any Channel

  init(source: ApplicationRequestContextSource) {
    coreContext = CoreRequestContextStorage(source: source)
    channel = source.channel
  }
}

/// Cancels the work for a client when the client closes its connection. The pipeline of each connection has one watch.
///
/// Hummingbird's `consumeWithCancellationOnInboundClose` does the same, but then the connection ends after the answer.
/// With a watch, the connection serves later requests, too. If a client closes only its sending side, its work is
/// cancelled as well, because the server cannot tell this from a closed connection.
final class ClientWatch: ChannelInboundHandler, RemovableChannelHandler, Sendable {
  typealias InboundIn = NIOAny

  private struct State {
    var isClosed = false
    /// Cancels the work for the request that is being answered. There is one such request at a time, even if a client
    /// sends several at once.
    var cancel: (@Sendable () -> Void)?
  }
  private let state = Mutex(State())

  /// The watch of a connection.
  /// - Throws: `CancellationError` if the connection is closed, because its pipeline is gone.
  static func of(_ channel: any Channel) async throws -> ClientWatch {
    do {
      return try await channel.pipeline.handler(type: ClientWatch.self).get()
    } catch is ChannelPipelineError {
      throw CancellationError()
    }
  }

  /// Runs `operation`, and cancels it when the client closes the connection or the calling task is cancelled.
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
