import ArgumentParser
import Attention
import AttentionCases
import AttentionFiles
import Foundation

struct Compute: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Compute one case file and write the results.",
    discussion: """
      The input has the form of a conformance case; expected results are not needed. The output file holds \
      "output", "weights" and "lse", for a stored layer "output", "context", "weights" and "weights_averaged". If the \
      input holds "grad_output", the gradient of the output, the output file also holds "grad_query", "grad_key", \
      "grad_value" and the gradients of the other operands.
      """)

  @Argument(help: ArgumentHelp("The case: a safetensors file; - for one on standard input.", valueName: "in"))
  var input: String

  @Option(
    name: .shortAndLong,
    help: ArgumentHelp("Where the results go; replaced as a whole or not at all.", valueName: "out"))
  var output: String

  @Flag(help: "Print JSON instead of lines.")
  var json = false

  @OptionGroup var options: ContextOptions

  func run() throws {
    let context = try options.context()
    // Copied, because another program may write to the input meanwhile.
    let testCase = try openCase(openTensors(input, loading: .copied))
    let results = try testCase.compute(context: context).merging(testCase.computeGradients(context: context)) {
      old, _ in old
    }
    var writer = SafeTensorsWriter()
    writer.metadata = ["isa": try context.resolvedInstructionSet().rawValue]
    for (name, tensor) in results { try writer.add(name, tensor) }
    try writer.write(to: output)
    if json { return try printJSON(results.mapValues(\.shape)) }
    for (name, tensor) in results.sorted(by: { $0.key < $1.key }) {
      print("\(name.padded(to: 16)) \(tensor.shape)")
    }
    if let plan = try testCase.plan(context: context) { print("\("plan".padded(to: 16)) \(plan)") }
    print("written to \(output)")
  }
}
