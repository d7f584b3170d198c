#include "shell/session/texts_dialog.h"

#include "look/format.h"
#include "look/theme.h"

#include <QComboBox>
#include <QFileInfo>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QSignalBlocker>
#include <QVBoxLayout>

namespace espalier
{

TextsDialog::TextsDialog(const QString& model, bool opens, const TextChoice& now, const TextChoice& builtIn, QWidget* parent)
    : QDialog(parent), m_builtIn(builtIn)
{
    setWindowTitle(tr("Texts for %1").arg(model));
    setModal(false);
    setMinimumWidth(pixelsOf(640));
    auto* all = new QVBoxLayout(this);
    all->setContentsMargins(16, 16, 16, 12);
    auto* head = new QLabel(tr("Texts that %1 is measured on").arg(model));
    head->setFont(fontFor(FontRole::Title));
    all->addWidget(head);
    auto* intro = new QLabel(tr("UTF-8 files. No window of one is used for another: a number on text that plans were fitted to flatters."));
    intro->setWordWrap(true);
    intro->setProperty("role", QStringLiteral("muted"));
    all->addWidget(intro);
    all->addSpacing(pixelsOf(8));

    const struct {
        QString name;
        QString what;
        QString id;
        QString now;
        QString own;
    } texts[] = {
        {tr("calibration"), tr("scores, ranks and searches"), QStringLiteral("texts.calibration"), now.calibration, builtIn.calibration},
        {tr("live"), tr("the perplexity while you edit"), QStringLiteral("texts.live"), now.live, builtIn.live},
        {tr("locked"), tr("measured when you ask, counted"), QStringLiteral("texts.locked"), now.locked, builtIn.locked},
        {tr("tasks"), tr("a folder of multiple-choice questions"), QStringLiteral("texts.tasks"), now.tasks, builtIn.tasks}};
    auto* grid = new QGridLayout;
    grid->setHorizontalSpacing(pixelsOf(12));
    grid->setVerticalSpacing(pixelsOf(8));
    for (int i = 0; i < 4; ++i) {
        auto* name = new QLabel(texts[i].name);
        name->setFont(fontFor(FontRole::Head));
        auto* what = new QLabel(texts[i].what);
        what->setProperty("role", QStringLiteral("muted"));
        what->setFont(fontFor(FontRole::Small));
        auto* files = new QComboBox;
        files->setObjectName(texts[i].id);
        files->setAccessibleName(i == Tasks ? tr("tasks, %1").arg(texts[i].what) : tr("%1 text, %2").arg(texts[i].name, texts[i].what));
        files->setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
        m_files[static_cast<std::size_t>(i)] = files;
        files->addItem(i == Tasks ? tr("endings and cloze · built in, English prose")
                                  : tr("%1 · built in, English prose").arg(QFileInfo(texts[i].own).fileName()),
                       texts[i].own);
        if (i == Live || i == Locked)
            files->addItem(i == Live ? tr("other windows of the calibration text") : tr("other windows of the live text"), QString());
        if (!texts[i].now.isEmpty()) offer(static_cast<Role>(i), texts[i].now);
        files->setCurrentIndex(files->findData(texts[i].now));
        auto* browse = new QPushButton(tr("Browse…"));
        browse->setAutoDefault(false);
        browse->setAccessibleName(i == Tasks ? tr("choose a folder of tasks") : tr("choose a file as %1 text").arg(texts[i].name));
        const QString title = i == Tasks ? tr("Folder of tasks") : tr("Text: %1").arg(texts[i].what);
        connect(browse, &QPushButton::clicked, this, [this, i, title] { emit browseRequested(static_cast<Role>(i), title); });
        connect(files, &QComboBox::currentIndexChanged, this, &TextsDialog::refresh);
        grid->addWidget(name, 2 * i, 0);
        grid->addWidget(files, 2 * i, 1);
        grid->addWidget(browse, 2 * i, 2);
        grid->addWidget(what, 2 * i + 1, 1);
    }
    grid->setColumnStretch(1, 1);
    all->addLayout(grid);
    all->addSpacing(pixelsOf(4));
    m_note = new QLabel;
    m_note->setWordWrap(true);
    m_note->setObjectName(QStringLiteral("texts.note"));
    all->addWidget(m_note);
    all->addStretch();
    auto* buttons = new QHBoxLayout;
    buttons->addStretch();
    auto* cancel = new QPushButton(tr("Cancel"));
    cancel->setAutoDefault(false);
    auto* use = new QPushButton(opens ? tr("Open model") : tr("Use these texts"));
    use->setObjectName(QStringLiteral("texts.use"));
    use->setProperty("filled", true);
    use->setDefault(true);
    connect(cancel, &QPushButton::clicked, this, &QDialog::close);
    connect(use, &QPushButton::clicked, this, [this] {
        emit chosen(choice());
        close();
    });
    buttons->addWidget(cancel);
    buttons->addWidget(use);
    all->addLayout(buttons);
    use->setFocus();
    refresh();
}

void TextsDialog::offer(Role role, const QString& file)
{
    QComboBox* files = m_files[role];
    if (files->findData(file) >= 0) return;
    const QSignalBlocker blocked(files);
    files->addItem(QFileInfo(file).fileName(), file);
    files->setItemData(files->count() - 1, file, Qt::ToolTipRole);
}

void TextsDialog::setFile(int role, const QString& file)
{
    offer(static_cast<Role>(role), file);
    QComboBox* files = m_files[static_cast<std::size_t>(role)];
    files->setCurrentIndex(files->findData(file));
    // Whoever brings one text of their own does not want to be measured on another one's: the rest of it stands in.
    const auto follow = [this](Role of, const QString& own) {
        if (m_files[of]->currentData().toString() == own) m_files[of]->setCurrentIndex(m_files[of]->findData(QString()));
    };
    if (role == Calibration && file != m_builtIn.calibration) follow(Live, m_builtIn.live);
    if (role <= Live && file != m_builtIn.live) follow(Locked, m_builtIn.locked);
}

TextChoice TextsDialog::choice() const
{
    return {m_files[Calibration]->currentData().toString(), m_files[Live]->currentData().toString(),
            m_files[Locked]->currentData().toString(), m_files[Tasks]->currentData().toString()};
}

// What the choice means where it is not plain.
void TextsDialog::refresh()
{
    const TextChoice now = choice();
    const bool builtIn = now.calibration == m_builtIn.calibration || now.live == m_builtIn.live;
    QString note;
    if (!sharedFiles(now).empty())
        note = tr("One file stands for several texts: its windows are shared out, none is used twice.");
    else if (builtIn)
        note = tr("The built-in texts are English prose; text like that which the model is for says more.");
    m_note->setText(note);
    m_note->setVisible(!note.isEmpty());
}

}  // namespace espalier
