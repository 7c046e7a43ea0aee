"""From files of echocardiography video to batches of masked clips."""
