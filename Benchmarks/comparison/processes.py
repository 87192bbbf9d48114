"""Programs that are driven line by line: a JSON object each way."""

import json
import subprocess


class Program:
    def __init__(self, *command):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.command)} ended with status {self.process.wait()} at {json.dumps(request)}")
        return json.loads(line)

    def seconds(self, **request):
        answer = self.ask(**request)
        if "error" in answer:
            raise SystemExit(f"{' '.join(self.command)} refuses {json.dumps(request)}: {answer['error']}")
        return answer["seconds"]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait()
