import ArgumentParser

/// Measures attention: by itself, or driven by another program, so that the two can alternate.
@main
struct AttentionRunner: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attention-runner",
    abstract: "Measure attention, products and softmax.",
    subcommands: [Serve.self, Bench.self, Tune.self, Chart.self], defaultSubcommand: Serve.self)
}
