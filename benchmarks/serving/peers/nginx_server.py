"""nginx that reads a request's body and sends it back, two workers: what the machine can do when nobody computes anything."""

import os
import tempfile
from pathlib import Path

CONFIG = """
load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;
worker_processes 2;
daemon off;
error_log stderr error;
pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_buffer_size 2m;
  client_body_temp_path {folder}/body;
  keepalive_requests 100000000;
  server {{
    listen 127.0.0.1:{port};
    location / {{ echo_read_request_body; echo_request_body; }}
  }}
}}
"""

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="nginx-"))
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=os.environ["PORT"]))
    os.execv("/usr/sbin/nginx", ["nginx", "-p", str(folder), "-c", str(config)])
