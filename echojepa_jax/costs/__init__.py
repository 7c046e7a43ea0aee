"""What a training step costs: FLOPs, memory, communication and time, counted or measured."""
