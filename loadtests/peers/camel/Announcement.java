import org.apache.camel.main.BaseMainSupport;
import org.apache.camel.main.MainListenerSupport;

/** Prints the port and the version once all routes run. */
final class Announcement extends MainListenerSupport {
  private final int port;

  Announcement(int port) {
    this.port = port;
  }

  @Override
  public void afterStart(BaseMainSupport main) {
    System.out.println(port + " Apache Camel " + main.getCamelContext().getVersion());
  }
}
