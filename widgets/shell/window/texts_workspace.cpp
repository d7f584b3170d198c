#include "shell/window/texts_workspace.h"

#include "shell/session/texts_dialog.h"

#include <QCryptographicHash>
#include <QDir>
#include <QFileDialog>
#include <QFileInfo>

namespace espalier
{

namespace
{

// Paths are no keys: a slash begins a group.
QString textsKey(const QString& folder)
{
    const QByteArray name = QDir(folder).absolutePath().toUtf8();
    return QStringLiteral("texts/") + QString::fromLatin1(QCryptographicHash::hash(name, QCryptographicHash::Sha1).toHex());
}

}  // namespace

QFileDialog* fileDialog(const WindowContext& context, const QString& title, const QString& filter, const QString& kind)
{
    const QString setting = QStringLiteral("folder/") + kind;
    auto* dialog = new QFileDialog(context.window, title, context.settings->value(setting, QDir::homePath()).toString(), filter);
    dialog->setAttribute(Qt::WA_DeleteOnClose);
    dialog->setModal(false);
    QObject::connect(dialog, &QFileDialog::fileSelected, context.window,
                     [settings = context.settings, setting](const QString& file) { settings->setValue(setting, QFileInfo(file).path()); });
    return dialog;
}

TextsWorkspace::TextsWorkspace(const WindowContext& context, QObject* parent) : Workspace(context, parent)
{
    m_in.actions->add(this, QStringLiteral("evaluate.text"), tr("&Texts…"), {}, {}, [this] { ask({}); });
    connect(&workbench(), &Workbench::textChanged, this, [this] { banners().dismiss(QStringLiteral("text")); });
    connect(&workbench(), &Workbench::textsNoted, this, &TextsWorkspace::note);
}

void TextsWorkspace::updateActions() { m_in.actions->enable("evaluate.text", isOpen()); }

void TextsWorkspace::ask(const QString& folder)
{
    delete m_dialog;
    const bool opens = !folder.isEmpty();
    const QString model = opens ? QFileInfo(folder).fileName() : workbench().modelName();
    m_dialog = new TextsDialog(model, opens, opens ? textsOf(folder) : workbench().texts(), workbench().builtInTexts(), m_in.window);
    m_dialog->setAttribute(Qt::WA_DeleteOnClose);
    connect(m_dialog, &TextsDialog::browseRequested, this, [this](TextsDialog::Role role, const QString& title) {
        const bool folder = role == TextsDialog::Tasks;
        QFileDialog* files = fileDialog(m_in, title, folder ? QString() : tr("Text (*.txt *.md);;All files (*)"),
                                        folder ? QStringLiteral("tasks") : QStringLiteral("text"));
        files->setFileMode(folder ? QFileDialog::Directory : QFileDialog::ExistingFile);
        connect(files, &QFileDialog::fileSelected, m_dialog.data(),
                [texts = m_dialog, role](const QString& file) { texts->setFile(role, file); });
        files->show();
    });
    connect(m_dialog, &TextsDialog::chosen, this, [this, folder, opens](const TextChoice& texts) {
        if (opens)
            emit openRequested(folder, texts);
        else
            workbench().setTexts(texts);
    });
    m_dialog->show();
}

TextChoice TextsWorkspace::textsOf(const QString& folder) const
{
    const QStringList kept = m_in.settings->value(textsKey(folder)).toStringList();
    TextChoice texts = workbench().builtInTexts();
    if (kept.size() < 3 || !QFileInfo::exists(kept[0])) return texts;
    texts.calibration = kept[0];
    texts.live = kept[1];
    texts.locked = kept[2];
    if (kept.size() > 3 && QFileInfo::exists(kept[3])) texts.tasks = kept[3];
    return texts;
}

void TextsWorkspace::remember()
{
    const TextChoice& texts = workbench().texts();
    if (texts == workbench().builtInTexts())
        m_in.settings->remove(textsKey(workbench().modelPath()));
    else
        m_in.settings->setValue(textsKey(workbench().modelPath()), QStringList{texts.calibration, texts.live, texts.locked, texts.tasks});
}

void TextsWorkspace::note(const QString& cause, const QString& consequence)
{
    remember();
    banners().dismiss(QStringLiteral("texts"));
    if (cause.isEmpty()) return;
    Banner banner;
    banner.id = QStringLiteral("texts");
    banner.kind = Banner::Kind::Info;
    banner.cause = cause;
    banner.consequence = consequence;
    banner.actions = {{tr("Choose texts…"), [this] { ask({}); }}};
    banners().show(banner);
}

}  // namespace espalier
