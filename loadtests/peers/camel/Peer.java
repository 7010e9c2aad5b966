import io.vertx.core.Vertx;
import io.vertx.core.VertxOptions;
import java.net.InetAddress;
import java.net.ServerSocket;
import org.apache.camel.builder.RouteBuilder;
import org.apache.camel.component.platform.http.vertx.VertxPlatformHttpServer;
import org.apache.camel.component.platform.http.vertx.VertxPlatformHttpServerConfiguration;
import org.apache.camel.main.Main;

/**
 * Apache Camel with one of two routes, in the settings that `run` passes on: `accept` posts events to Kafka, `deliver`
 * posts records of Kafka to a URL. It stops when its standard input is closed.
 */
public final class Peer {
  /** Vert.x has 20 by default. Each request holds one until Kafka has confirmed its record. */
  private static final int WORKER_THREADS = 256;

  private Peer() {}

  public static void main(String[] arguments) throws Exception {
    String brokers = setting("PEER_BROKERS");
    String topic = setting("PEER_TOPIC");
    Main main = new Main();
    stopAtEndOfInput();
    // Bodies are read once, so they need no copies.
    main.configure().withStreamCachingEnabled(false);
    switch (arguments[0]) {
      case "accept" -> {
        int port = freePort();
        main.bind("vertx", Vertx.vertx(new VertxOptions().setWorkerPoolSize(WORKER_THREADS)));
        main.configure().addRoutesBuilder(withServer(port, new AcceptRoute(brokers, topic)));
        main.addMainListener(new Announcement(port));
      }
      case "deliver" -> {
        main.configure().addRoutesBuilder(new DeliverRoute(brokers, topic, setting("PEER_TARGET")));
        // Nothing listens; the line says that the route runs.
        main.addMainListener(new Announcement(0));
      }
      default -> throw new IllegalArgumentException("the route is `accept` or `deliver`, not " + arguments[0]);
    }
    main.run();
  }

  /** The routes with the HTTP server that serves them. */
  private static RouteBuilder withServer(int port, RouteBuilder routes) {
    return new RouteBuilder() {
      @Override
      public void configure() throws Exception {
        VertxPlatformHttpServerConfiguration server = new VertxPlatformHttpServerConfiguration();
        server.setBindHost("127.0.0.1");
        server.setBindPort(port);
        getContext().addService(new VertxPlatformHttpServer(server));
        getContext().addRoutes(routes);
      }
    };
  }

  private static void stopAtEndOfInput() {
    Thread watcher = new Thread(() -> {
      try {
        System.in.transferTo(java.io.OutputStream.nullOutputStream());
      } catch (java.io.IOException closed) {
        // The same as its end.
      }
      // Camel stops its routes in a shutdown hook, as after SIGTERM.
      System.exit(0);
    }, "input");
    watcher.setDaemon(true);
    watcher.start();
  }

  /** Free at this moment. If another process takes it, the server fails and says so. */
  private static int freePort() throws java.io.IOException {
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      return socket.getLocalPort();
    }
  }

  private static String setting(String name) {
    String value = System.getenv(name);
    if (value == null || value.isEmpty()) {
      throw new IllegalArgumentException(name + " is not set");
    }
    return value;
  }
}
