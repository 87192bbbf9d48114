/// What went wrong, in one sentence: who expected what, and what came instead.
///
/// The libraries of this package throw only this type, and `CancellationError` where a task is cancelled. `code` tells
/// programs the kind of the error. The set of codes is open, so a new kind does not break source code. `description` is
/// for people:
///
///     scaledDotProductAttention: key and value need the same length; got key [2, 4, 128, 64], value [2, 4, 127, 64]
public struct AttentionError: Error, Sendable, Hashable {
  /// The kind of an error. The set is open: compare with the constants, and expect other values.
  public struct Code: RawRepresentable, Sendable, Hashable {
    public let rawValue: String
    public init(rawValue: String) { self.rawValue = rawValue }

    /// Shapes that do not fit each other or the operation.
    public static let shapeMismatch = Code(rawValue: "shapeMismatch")
    /// An argument outside what the operation accepts.
    public static let invalidArgument = Code(rawValue: "invalidArgument")
    /// A combination of valid arguments or settings that this version or this machine does not support.
    public static let unsupported = Code(rawValue: "unsupported")
    /// A file whose content contradicts its format.
    public static let invalidFile = Code(rawValue: "invalidFile")
    /// There is no tensor or parameter of the name that was asked for.
    public static let notFound = Code(rawValue: "notFound")
    /// The operating system refused to read, write or map a file.
    public static let inputOutput = Code(rawValue: "inputOutput")
    /// Too much was asked for at once. The same request may succeed later.
    public static let busy = Code(rawValue: "busy")
    /// A number that should be finite is infinite or NaN.
    public static let notFinite = Code(rawValue: "notFinite")
    /// Memory could not be allocated.
    public static let outOfMemory = Code(rawValue: "outOfMemory")
  }

  /// The kind.
  public let code: Code
  /// The function, type or file that complains.
  public let subject: String
  /// What was expected, and what came instead.
  public let message: String

  /// An error of this package. Its description is `subject`, a colon and `message`.
  public init(_ code: Code, _ subject: String, _ message: String) {
    self.code = code
    self.subject = subject
    self.message = message
  }
}

extension AttentionError: CustomStringConvertible {
  public var description: String { "\(subject): \(message)" }
}

/// Throws an error with code `.shapeMismatch` and the given subject and message unless `condition` holds.
package func requireShape(
  _ condition: Bool, _ subject: @autoclosure () -> String, _ message: @autoclosure () -> String
) throws(AttentionError) {
  if !condition { throw AttentionError(.shapeMismatch, subject(), message()) }
}

/// Throws an error with code `.invalidArgument` and the given subject and message unless `condition` holds.
package func requireArgument(
  _ condition: Bool, _ subject: @autoclosure () -> String, _ message: @autoclosure () -> String
) throws(AttentionError) {
  if !condition { throw AttentionError(.invalidArgument, subject(), message()) }
}
