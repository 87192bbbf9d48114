import ArgumentParser

/// Measures attention, either by itself or on requests of another program, so that the two programs can take turns.
@main
struct AttentionRunner: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attention-runner",
    abstract: "Measure attention, products and softmax.",
    subcommands: [Serve.self, Bench.self, Tune.self, Chart.self], defaultSubcommand: Serve.self)
}
