"""Data: reads files of echocardiography video and makes batches of masked clips."""
